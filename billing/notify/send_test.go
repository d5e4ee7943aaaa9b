package notify

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A server that is away is tried again with growing pauses, the same mail each
// time, and in the end given up. Every try is in the log.
func TestRetries(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.boxes[Mail].answer = func(Outgoing) (string, error) { return "451", errors.New("try later") }
		f.post(t, "top_up", "1")
		f.send(t, time.Minute)
		f.post(t, "top_up", "2") // must not change the mail that is under way
		first := f.boxes[Mail].take()
		for i, pause := range pauses[Mail] {
			f.send(t, pause-2*time.Second)
			for _, o := range f.boxes[Mail].take() {
				if o.ID == first[0].ID {
					t.Fatalf("try %d came before its time", i+2)
				}
			}
			f.send(t, 2*time.Second)
			again := slices.DeleteFunc(f.boxes[Mail].take(), func(o Outgoing) bool { return o.ID != first[0].ID })
			if len(again) != 1 || again[0].Body != first[0].Body || again[0].Subject != first[0].Subject {
				t.Fatalf("try %d: %+v", i+2, again)
			}
		}
		got := f.log(t, LogFilter{Channel: Mail})
		d := got[len(got)-1]
		if d.State != "failed" || len(d.Attempts) != len(pauses[Mail])+1 || d.Attempts[0].Code != "451" || d.Attempts[0].OK {
			t.Fatalf("%+v", d)
		}
		f.boxes[Mail].answer = nil
		if err := f.Resend(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
		f.send(t, 0)
		if d := f.log(t, LogFilter{Message: d.Message, Channel: Mail})[0]; d.State != "sent" || !d.Attempts[len(d.Attempts)-1].OK {
			t.Fatalf("resent: %+v", d)
		}
	})
}

// An address the server says does not exist is not tried again, not used again,
// and the account is told in its inbox.
func TestAddressThatFails(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.boxes[Mail].answer = func(Outgoing) (string, error) {
			return "550", &Refusal{Code: "550", Gone: true, Err: errors.New("no such user")}
		}
		f.post(t, "top_up", "1")
		f.send(t, time.Minute)
		if n := len(f.boxes[Mail].take()); n != 1 {
			t.Fatalf("%d tries", n)
		}
		f.post(t, "top_up", "2")
		f.send(t, time.Hour)
		if n := len(f.boxes[Mail].take()); n != 0 {
			t.Fatalf("%d further mails to it", n)
		}
		in, err := f.Inbox(t.Context(), "buyer", "en", "", false, 0)
		if err != nil || len(in) != 3 || in[1].Kind != "address_failing" || !strings.Contains(in[1].Text.Body, "f…@example.com") {
			t.Fatalf("%+v, %v", in, err)
		}
		if r := f.owner(t); r.MailFailing != "550" {
			t.Errorf("%+v", r)
		}
	})
}

// A process that dies between sending and noting leaves a lease: the mail is
// sent again, with the same id, and not before the lease ends.
func TestCrashAfterSending(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.post(t, "top_up", "1")
		f.clock.add(time.Minute)
		id := f.log(t, LogFilter{Channel: Mail})[0].ID
		batch, err := f.take(t.Context(), delivery{ID: id, Channel: Mail, Receiver: f.owner(t).ID})
		if err != nil || len(batch) != 1 {
			t.Fatal(batch, err)
		}
		f.send(t, sendLease-time.Second)
		if n := len(f.boxes[Mail].take()); n != 0 {
			t.Fatal("sent while another process has it")
		}
		f.send(t, time.Second)
		if got := f.boxes[Mail].take(); len(got) != 1 || got[0].ID != id {
			t.Fatalf("%+v", got)
		}
	})
}

// Several processes send each delivery once.
func TestManySenders(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		const n = 60
		for i := range n {
			f.post(t, "used_up", fmt.Sprint(i))
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					n, err := f.SendDue(t.Context())
					if err != nil {
						t.Error(err)
					}
					if n == 0 || err != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		f.send(t, 0)
		seen := map[string]int{}
		for _, o := range f.boxes[SMS].take() {
			seen[o.ID]++
		}
		if len(seen) != n {
			t.Fatalf("%d of %d", len(seen), n)
		}
		for id, times := range seen {
			if times != 1 {
				t.Errorf("%s was sent %d times", id, times)
			}
		}
	})
}

// One dead receiver keeps nobody else's messages back.
func TestDeadReceiverDelaysNobody(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		r, err := f.AddReceiver(t.Context(), Receiver{Account: "buyer", Name: "Dead", Phone: "+8613911111111", Language: "en"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.db.Exec(t.Context(), `UPDATE notify_receiver SET phone_verified = $1 WHERE id = $2`, true, r.ID); err != nil {
			t.Fatal(err)
		}
		if err := f.Set(t.Context(), "buyer", Setting{Receiver: r.ID, Category: "balance", Channels: []Channel{SMS}, Frequency: Now}); err != nil {
			t.Fatal(err)
		}
		f.boxes[SMS].answer = func(o Outgoing) (string, error) {
			if o.To == r.Phone {
				return "", errors.New("dead")
			}
			return "200", nil
		}
		const n = 150
		for i := range n {
			f.post(t, "used_up", fmt.Sprint(i))
		}
		f.send(t, 0)
		good := 0
		for _, o := range f.boxes[SMS].take() {
			if o.To != r.Phone {
				good++
			}
		}
		if good != n {
			t.Errorf("%d of %d arrived", good, n)
		}
	})
}

// Endpoints get every category, or those they chose, signed by both secrets
// while one is replaced; one that is gone is disabled and its owner told.
func TestEndpoints(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		all, secret, err := f.AddEndpoint(t.Context(), Endpoint{Account: "buyer", URL: "https://hooks.test/a"})
		if err != nil || !strings.HasPrefix(secret, "whsec_") {
			t.Fatal(secret, err)
		}
		some, _, err := f.AddEndpoint(t.Context(), Endpoint{Account: "buyer", URL: "https://hooks.test/b", Categories: []string{"order"}})
		if err != nil {
			t.Fatal(err)
		}
		var stored string
		if err := f.db.QueryRow(t.Context(), `SELECT secret FROM notify_endpoint WHERE id = $1`, all.ID).Scan(&stored); err != nil || stored == secret {
			t.Error("the secret is not sealed", err)
		}
		fresh, err := f.RotateSecret(t.Context(), "buyer", all.ID)
		if err != nil {
			t.Fatal(err)
		}
		f.post(t, "top_up", "1")
		f.send(t, 0)
		got := f.boxes[Webhook].take()
		if len(got) != 1 || got[0].To != all.URL || !slices.Equal(got[0].Secrets, []string{fresh, secret}) {
			t.Fatalf("%+v", got)
		}
		if want := `{"data":{"amount":100000000,"balance":1000000000,"link":"/balance"},"timestamp":"2026-11-30T18:30:15Z","type":"top_up"}`; string(got[0].Payload) != want {
			t.Errorf("payload %s", got[0].Payload)
		}
		f.clock.add(rotation)
		f.post(t, "order_paid", "1")
		f.boxes[Webhook].answer = func(o Outgoing) (string, error) {
			if o.To == some.URL {
				return "410", &Refusal{Code: "410", Gone: true, Err: errors.New("gone")}
			}
			return "200", nil
		}
		f.send(t, 0)
		if got := f.boxes[Webhook].take(); len(got) != 3 {
			// Both get the order; the one that is left is told that the other was disabled.
			t.Fatalf("%+v", got)
		} else if !slices.Equal(got[len(got)-1].Secrets, []string{fresh}) {
			t.Error("the old secret signs after a day")
		}
		in, _ := f.Inbox(t.Context(), "buyer", "en", "", false, 1)
		if in[0].Kind != "endpoint_disabled" {
			t.Fatalf("%+v", in)
		}
		f.post(t, "order_paid", "2")
		f.boxes[Webhook].answer = nil
		f.send(t, 0)
		for _, o := range f.boxes[Webhook].take() {
			if o.To == some.URL {
				t.Error("a disabled endpoint got a message")
			}
		}
		if err := f.EnableEndpoint(t.Context(), "buyer", some.ID); err != nil {
			t.Error(err)
		}
		for _, bad := range []string{"", "ftp://a.test/", "https://", "https://u:p@a.test/", "https://a.test/#x", "//a.test"} {
			if _, _, err := f.AddEndpoint(t.Context(), Endpoint{Account: "buyer", URL: bad}); !errors.Is(err, ErrInvalid) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		if err := f.RemoveEndpoint(t.Context(), "stranger", some.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("another account removed it: %v", err)
		}
	})
}
