package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
)

func TestMain(m *testing.M) { postgres.Main(m) }

// start is when the tests' clocks begin: 02:30 in Beijing.
var start = time.Date(2026, 11, 30, 18, 30, 15, 0, time.UTC)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// outbox is a Sender that keeps what it is given and answers what it is told.
// The real senders have tests of their own, against real servers.
type outbox struct {
	mu     sync.Mutex
	sent   []Outgoing
	answer func(o Outgoing) (string, error)
}

func (b *outbox) Send(_ context.Context, o Outgoing) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, o)
	if b.answer != nil {
		return b.answer(o)
	}
	return "250", nil
}

func (b *outbox) take() []Outgoing {
	b.mu.Lock()
	defer b.mu.Unlock()
	sent := b.sent
	b.sent = nil
	return sent
}

// plainSeal seals nothing: what is sealed is tested in admin/seal.
type plainSeal struct{}

func (plainSeal) Seal(place, plain string) (string, error) { return place + "|" + plain, nil }

func (plainSeal) Open(place, sealed string) (string, error) {
	plain, ok := strings.CutPrefix(sealed, place+"|")
	if !ok {
		return "", errors.New("sealed for another place")
	}
	return plain, nil
}

type fixture struct {
	*Service
	db    *sqldb.DB
	clock *clock
	boxes map[Channel]*outbox
}

// onBoth runs a test on SQLite and on PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Parallel()
	for name, options := range map[string]func(t *testing.T) sqldb.Options{
		"sqlite":   func(t *testing.T) sqldb.Options { return sqldb.Options{Dir: t.TempDir()} },
		"postgres": func(t *testing.T) sqldb.Options { return sqldb.Options{URL: postgres.URL(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := sqldb.Open(t.Context(), options(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			f := &fixture{db: db, clock: &clock{t: start}, boxes: map[Channel]*outbox{}}
			senders := map[Channel]Sender{}
			for _, c := range []Channel{Mail, SMS, Voice, Webhook} {
				f.boxes[c] = &outbox{}
				senders[c] = f.boxes[c]
			}
			f.Service, err = New(t.Context(), Options{
				DB: db, Now: f.clock.now, Seal: plainSeal{}, Senders: senders, BaseURL: "https://console.test/",
				Key: []byte("0123456789abcdef"), Jitter: func() float64 { return 0 },
			})
			if err != nil {
				t.Fatal(err)
			}
			f.do(t, func(ctx context.Context, tx *sqldb.Tx) error {
				return f.SetOwner(ctx, tx, Receiver{Account: "buyer", Name: "王芳", Mail: "fang@example.com", Phone: "+8613800000000", Language: "zh"})
			})
			test(t, f)
		})
	}
}

func (f *fixture) do(t *testing.T, fn func(ctx context.Context, tx *sqldb.Tx) error) {
	t.Helper()
	if err := f.db.InLockingTx(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// post posts a sample of a kind and reports whether it was new.
func (f *fixture) post(t *testing.T, kindName, dedup string) (fresh bool) {
	t.Helper()
	k, _ := kind(kindName)
	f.do(t, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		fresh, err = f.Post(ctx, tx, Event{Account: "buyer", Kind: kindName, Dedup: dedup, Object: "01J", Data: k.Sample})
		return err
	})
	return fresh
}

// send sends what is due after d.
func (f *fixture) send(t *testing.T, d time.Duration) {
	t.Helper()
	f.clock.add(d)
	for {
		n, err := f.SendDue(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

func (f *fixture) log(t *testing.T, filter LogFilter) []Delivery {
	t.Helper()
	all, err := f.Log(t.Context(), filter)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// One event, posted by many at once and again later, is one message with one
// delivery for each channel (MSG-5).
func TestOncePerEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { f.post(t, "low_quota_on_demand", "crossing-1") })
		}
		wg.Wait()
		if f.post(t, "low_quota_on_demand", "crossing-1") || !f.post(t, "low_quota_on_demand", "crossing-2") {
			t.Error("the dedup key does not decide")
		}
		f.send(t, time.Minute)
		if mails, texts := len(f.boxes[Mail].take()), len(f.boxes[SMS].take()); mails != 1 || texts != 2 {
			t.Fatalf("%d mails (two messages in one), %d text messages", mails, texts)
		}
		if voice := f.boxes[Voice].take(); len(voice) != 0 {
			t.Error("voice is off by default (MSG-3)")
		}
		in, err := f.Inbox(t.Context(), "buyer", "zh", "", true, 0)
		if err != nil || len(in) != 2 || !strings.HasPrefix(in[0].Text.Subject, "余量 20%：") {
			t.Fatalf("%+v, %v", in, err)
		}
		if n, err := f.MarkRead(t.Context(), "buyer", in[0].ID, in[0].ID, "no"); err != nil || n != 1 {
			t.Errorf("marked %d, %v", n, err)
		}
		if n, _ := f.MarkRead(t.Context(), "somebody else"); n != 0 {
			t.Error("another account marked it")
		}
		if n, err := f.Unread(t.Context(), "buyer"); err != nil || n != 1 {
			t.Errorf("%d unread, %v", n, err)
		}
	})
}

// A transaction that does not commit tells nobody.
func TestRolledBackTellsNobody(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		k, _ := kind("top_up")
		back := errors.New("back")
		err := f.db.InLockingTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			if _, err := f.Post(ctx, tx, Event{Account: "buyer", Kind: "top_up", Dedup: "1", Data: k.Sample}); err != nil {
				return err
			}
			return back
		})
		if !errors.Is(err, back) {
			t.Fatal(err)
		}
		f.send(t, time.Hour)
		if in, _ := f.Inbox(t.Context(), "buyer", "en", "", false, 0); len(in) != 0 || len(f.boxes[Mail].take()) != 0 {
			t.Error("told what did not happen")
		}
	})
}

// Thirty packages that cross at once are one mail with all of them in it.
func TestManyAtOnceAreOneMail(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		for i := range 30 {
			f.post(t, "low_quota", fmt.Sprint(i))
		}
		f.send(t, 4*time.Second)
		if n := len(f.boxes[Mail].take()); n != 0 {
			t.Fatalf("%d mails left without waiting for the rest", n)
		}
		f.send(t, time.Second)
		mails := f.boxes[Mail].take()
		if len(mails) != 1 || !strings.HasPrefix(mails[0].Subject, "30 条消息：") || strings.Count(mails[0].Body, "剩余：") != 30 {
			t.Fatalf("%d mails: %+v", len(mails), mails)
		}
		if got := f.log(t, LogFilter{Channel: Mail, State: "sent", Limit: 200}); len(got) != 30 || len(got[0].Attempts) != 1 || got[0].Attempts[0].Code != "250" {
			t.Fatalf("%d in the log", len(got))
		}
	})
}

// A receiver who chose the daily digest gets one mail at ten in the morning.
func TestDigest(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		owner := f.owner(t)
		if err := f.Set(t.Context(), "buyer", Setting{Receiver: owner.ID, Category: "expiring", Channels: []Channel{Mail}, Frequency: Daily, ChangedBy: "fang"}); err != nil {
			t.Fatal(err)
		}
		f.post(t, "quota_expiring", "a")
		f.send(t, 3*time.Hour)
		f.post(t, "quota_expiring", "b")
		f.send(t, time.Hour)
		if n := len(f.boxes[Mail].take()); n != 0 {
			t.Fatalf("%d mails before ten", n)
		}
		f.send(t, 3*time.Hour+30*time.Minute) // 10:00 in Beijing
		mails := f.boxes[Mail].take()
		if len(mails) != 1 || !strings.HasPrefix(mails[0].Subject, "2 条消息") {
			t.Fatalf("%+v", mails)
		}
		if want := "https://console.test/unsubscribe?token=" + owner.ID + ".expiring."; !strings.HasPrefix(mails[0].Unsubscribe, want) {
			t.Errorf("unsubscribe link %q", mails[0].Unsubscribe)
		}
	})
}

func (f *fixture) owner(t *testing.T) Receiver {
	t.Helper()
	all, err := f.Receivers(t.Context(), "buyer")
	if err != nil || len(all) == 0 || !all[0].Owner {
		t.Fatalf("%+v, %v", all, err)
	}
	return all[0]
}

// What is required cannot be switched off, by settings or by link; the rest can.
func TestRequiredAndUnsubscribe(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		owner := f.owner(t)
		for _, bad := range []Setting{
			{Receiver: owner.ID, Category: "balance", Frequency: Off},
			{Receiver: owner.ID, Category: "balance", Frequency: Now},
			{Receiver: owner.ID, Category: "security", Channels: []Channel{Mail}, Frequency: Daily},
			{Receiver: owner.ID, Category: "nothing", Channels: []Channel{Mail}, Frequency: Now},
			{Receiver: owner.ID, Category: "expiring", Channels: []Channel{"pigeon"}, Frequency: Now},
			{Receiver: owner.ID, Category: "expiring", Channels: []Channel{Mail}, Frequency: "weekly"},
		} {
			if err := f.Set(t.Context(), "buyer", bad); !errors.Is(err, ErrInvalid) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		if err := f.Set(t.Context(), "stranger", Setting{Receiver: owner.ID, Category: "expiring", Frequency: Off}); !errors.Is(err, ErrNotFound) {
			t.Errorf("another account changed it: %v", err)
		}
		if f.unsubscribeLink(owner.ID, "balance") != "" {
			t.Error("a required category has an unsubscribe link")
		}
		_, token, _ := strings.Cut(f.unsubscribeLink(owner.ID, "expiring"), "token=")
		for _, forged := range []string{"", "a.b.c", token + "x", strings.Replace(token, "expiring", "balance", 1)} {
			if _, err := f.Unsubscribe(t.Context(), forged); !errors.Is(err, ErrInvalid) {
				t.Errorf("token %q: %v", forged, err)
			}
		}
		if c, err := f.Unsubscribe(t.Context(), token); err != nil || c.Name != "expiring" {
			t.Fatal(c, err)
		}
		f.post(t, "low_quota", "1")
		f.post(t, "used_up", "1")
		f.send(t, time.Minute)
		if mails := f.boxes[Mail].take(); len(mails) != 1 || mails[0].Unsubscribe != "" || !strings.HasPrefix(mails[0].Subject, "已用完") {
			t.Fatalf("%+v", mails)
		}
		if in, _ := f.Inbox(t.Context(), "buyer", "en", "", false, 0); len(in) != 2 {
			t.Errorf("the inbox has %d of 2", len(in))
		}
		if set, err := f.Settings(t.Context(), "buyer", owner.ID); err != nil || len(set) != len(Categories) || set[1].ChangedBy != "unsubscribe link" {
			t.Errorf("%+v, %v", set, err)
		}
	})
}

// A further receiver gets nothing before an address is verified and a category
// chosen, in their own language then.
func TestFurtherReceivers(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		r, err := f.AddReceiver(t.Context(), Receiver{Account: "buyer", Name: "Ann", Mail: "ann@example.com", Phone: "+4915112345678", Language: "en"})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Set(t.Context(), "buyer", Setting{Receiver: r.ID, Category: "balance", Channels: []Channel{Mail, SMS, Voice}, Frequency: Now}); err != nil {
			t.Fatal(err)
		}
		f.post(t, "used_up", "1")
		f.send(t, time.Minute)
		for _, o := range f.boxes[Mail].take() {
			if o.To == r.Mail {
				t.Error("sent to an address nobody verified")
			}
		}
		f.boxes[SMS].take()
		if err := f.StartVerification(t.Context(), "buyer", r.ID, SMS); err != nil {
			t.Fatal(err)
		}
		code := f.boxes[SMS].take()[0].Subject[len("Your verification code is "):]
		if err := f.Verify(t.Context(), "buyer", r.ID, "x"+code); !errors.Is(err, ErrInvalid) {
			t.Fatalf("a wrong code: %v", err)
		}
		if err := f.Verify(t.Context(), "buyer", r.ID, code); err != nil {
			t.Fatal(err)
		}
		if err := f.Verify(t.Context(), "buyer", r.ID, code); !errors.Is(err, ErrInvalid) {
			t.Fatalf("the code twice: %v", err)
		}
		f.post(t, "used_up", "2")
		f.send(t, time.Minute)
		voice := f.boxes[Voice].take()
		if len(voice) != 1 || voice[0].To != r.Phone || !strings.HasPrefix(voice[0].Subject, "Used up:") {
			t.Fatalf("%+v", voice)
		}
		if err := f.RemoveReceiver(t.Context(), "buyer", f.owner(t).ID); !errors.Is(err, ErrInvalid) {
			t.Errorf("the owner was removed: %v", err)
		}
		if err := f.RemoveReceiver(t.Context(), "buyer", r.ID); err != nil {
			t.Error(err)
		}
		f.post(t, "used_up", "3")
		f.send(t, time.Minute)
		if got := f.boxes[Voice].take(); len(got) != 0 {
			t.Error("a receiver who is gone was called")
		}
	})
}

func TestCodesWearOut(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		r, err := f.AddReceiver(t.Context(), Receiver{Account: "buyer", Name: "Ann", Mail: "ann@example.com", Language: "zh"})
		if err != nil {
			t.Fatal(err)
		}
		ask := func() string {
			if err := f.StartVerification(t.Context(), "buyer", r.ID, Mail); err != nil {
				t.Fatal(err)
			}
			return f.boxes[Mail].take()[0].Subject[len("验证码 "):]
		}
		code := ask()
		for range codeTries {
			_ = f.Verify(t.Context(), "buyer", r.ID, "wrong")
		}
		if err := f.Verify(t.Context(), "buyer", r.ID, code); !errors.Is(err, ErrInvalid) {
			t.Errorf("right after five wrong ones: %v", err)
		}
		code = ask()
		f.clock.add(codeLife)
		if err := f.Verify(t.Context(), "buyer", r.ID, code); !errors.Is(err, ErrInvalid) {
			t.Errorf("after its time: %v", err)
		}
		code = ask()
		if err := f.Verify(t.Context(), "buyer", r.ID, code); err != nil {
			t.Error(err)
		}
		if err := f.StartVerification(t.Context(), "buyer", r.ID, Voice); !errors.Is(err, ErrInvalid) {
			t.Error("a code by voice")
		}
	})
}

func TestBadReceivers(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		for _, r := range []Receiver{
			{Name: "", Mail: "a@example.com", Language: "en"},
			{Name: "Ann\r\nBcc: b@example.com", Mail: "a@example.com", Language: "en"},
			{Name: "Ann", Mail: "Ann <a@example.com>", Language: "en"},
			{Name: "Ann", Mail: "a@example.com\r\nBcc: b@example.com", Language: "en"},
			{Name: "Ann", Mail: "nobody", Language: "en"},
			{Name: "Ann", Phone: "13800000000", Language: "en"},
			{Name: "Ann", Language: "en"},
			{Name: "Ann", Mail: "a@example.com", Language: "fr"},
		} {
			r.Account = "buyer"
			if _, err := f.AddReceiver(t.Context(), r); !errors.Is(err, ErrInvalid) {
				t.Errorf("%+v: %v", r, err)
			}
		}
	})
}
