package notify

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// querier is a database or a transaction.
type querier interface {
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}

// Receiver is somebody who gets an account's messages (MSG-4).
type Receiver struct {
	ID            string
	Account       string
	Name          string
	Mail          string
	Phone         string // E.164: +8613800000000
	Language      string
	Owner         bool
	MailVerified  bool
	PhoneVerified bool
	MailFailing   string // why the address is taken to be wrong, or ""
	Created       time.Time
}

// address returns where the receiver is reached through a channel, or "" where
// there is no address, it is not verified, or it has failed for good.
func (r Receiver) address(c Channel) string {
	switch {
	case c == Mail && r.MailVerified && r.MailFailing == "":
		return r.Mail
	case (c == SMS || c == Voice) && r.PhoneVerified:
		return r.Phone
	}
	return ""
}

const receiverColumns = `id, account, name, mail, phone, language, owner, mail_verified, phone_verified, mail_failing, created_ms`

func scanReceiver(row interface{ Scan(...any) error }) (r Receiver, err error) {
	var created int64
	err = row.Scan(&r.ID, &r.Account, &r.Name, &r.Mail, &r.Phone, &r.Language, &r.Owner, &r.MailVerified, &r.PhoneVerified, &r.MailFailing, &created)
	r.Created = sqldb.Time(created)
	return r, err
}

// phone is E.164.
var phone = regexp.MustCompile(`^\+[1-9][0-9]{6,14}$`)

// check refuses what could not be delivered to, or would break a header.
func (r Receiver) check() error {
	if r.Name == "" || len(r.Name) > 100 || strings.ContainsAny(r.Name, "\r\n\x00") {
		return invalid("a receiver's name has 1 to 100 bytes and no line breaks")
	}
	if r.Mail != "" {
		if a, err := mail.ParseAddress(r.Mail); err != nil || a.Address != r.Mail || len(r.Mail) > 254 {
			return invalid("%q is not a mail address: write it as name@example.com", r.Mail)
		}
	}
	if r.Phone != "" && !phone.MatchString(r.Phone) {
		return invalid("%q is not a phone number: write it with its country, as +8613800000000", r.Phone)
	}
	if r.Mail == "" && r.Phone == "" {
		return invalid("a receiver needs a mail address or a phone number")
	}
	if !slices.Contains(Languages, r.Language) {
		return invalid("language %q: use zh or en", r.Language)
	}
	return nil
}

// maxReceivers of one account.
const maxReceivers = 50

// SetOwner makes or changes the account's own contact, whose addresses are
// taken as verified: they are those the account was made with.
func (s *Service) SetOwner(ctx context.Context, tx *sqldb.Tx, r Receiver) error {
	if err := r.check(); err != nil {
		return err
	}
	now := s.now()
	_, err := tx.Exec(ctx, `INSERT INTO notify_receiver (id, account, name, mail, phone, language, owner, mail_verified, phone_verified, mail_failing, code_hash, code_channel, code_tries, code_expires_ms, created_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $7, '', '', '', 0, 0, $8)
		ON CONFLICT (account) WHERE owner DO UPDATE SET name = excluded.name, mail = excluded.mail, phone = excluded.phone, language = excluded.language, mail_failing = ''`,
		ids.New(now), r.Account, r.Name, r.Mail, r.Phone, r.Language, true, sqldb.Ms(now))
	if err != nil {
		return fmt.Errorf("keep an account's contact: %w", err)
	}
	return nil
}

// AddReceiver adds a further receiver, who gets nothing until an address of
// theirs was verified and a category chosen.
func (s *Service) AddReceiver(ctx context.Context, r Receiver) (Receiver, error) {
	if err := r.check(); err != nil {
		return Receiver{}, err
	}
	now := s.now()
	r.ID, r.Owner, r.MailVerified, r.PhoneVerified, r.MailFailing, r.Created = ids.New(now), false, false, false, "", now
	err := s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM notify_receiver WHERE account = $1`, r.Account).Scan(&n); err != nil {
			return err
		}
		if n >= maxReceivers {
			return invalid("an account has %d receivers at most: remove one", maxReceivers)
		}
		_, err := tx.Exec(ctx, `INSERT INTO notify_receiver (id, account, name, mail, phone, language, owner, mail_verified, phone_verified, mail_failing, code_hash, code_channel, code_tries, code_expires_ms, created_ms)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $7, '', '', '', 0, 0, $8)`, r.ID, r.Account, r.Name, r.Mail, r.Phone, r.Language, false, sqldb.Ms(now))
		return err
	})
	return r, err
}

// Receivers returns the receivers of an account, its owner first.
func (s *Service) Receivers(ctx context.Context, account string) ([]Receiver, error) {
	return s.receivers(ctx, s.db, account)
}

// Receiver returns one receiver of an account.
func (s *Service) Receiver(ctx context.Context, account, id string) (Receiver, error) {
	return s.receiver(ctx, s.db, account, id)
}

func (s *Service) receiver(ctx context.Context, q querier, account, id string) (Receiver, error) {
	r, err := scanReceiver(q.QueryRow(ctx, `SELECT `+receiverColumns+` FROM notify_receiver WHERE account = $1 AND id = $2`, account, id))
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("%w: receiver %s", ErrNotFound, id)
	}
	return r, err
}

// RemoveReceiver removes a receiver; the owner stays (MSG-4). What was sent to
// them stays in the log.
func (s *Service) RemoveReceiver(ctx context.Context, account, id string) error {
	return s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		r, err := s.receiver(ctx, tx, account, id)
		if err != nil {
			return err
		}
		if r.Owner {
			return invalid("the account's own contact cannot be removed; change it instead")
		}
		if _, err := tx.Exec(ctx, `DELETE FROM notify_setting WHERE receiver = $1`, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE notify_delivery SET state = 'failed', last = 'receiver removed', done_ms = $1 WHERE receiver = $2 AND state = 'pending'`, sqldb.Ms(s.now()), id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM notify_receiver WHERE id = $1`, id)
		return err
	})
}

// Limits of verification codes.
const (
	codeLife  = 30 * time.Minute
	codeTries = 5
)

// StartVerification sends a six-digit code to an address of the receiver. It is
// sent at once and not through the log, which would show it.
func (s *Service) StartVerification(ctx context.Context, account, id string, c Channel) error {
	if c != Mail && c != SMS {
		return invalid("codes go by mail or sms, not by %q", c)
	}
	sender := s.o.Senders[c]
	if sender == nil {
		return invalid("this installation sends no %s: set it up first", c)
	}
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		return err
	}
	code, now := fmt.Sprintf("%06d", n), s.now()
	var r Receiver
	err = s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if r, err = s.receiver(ctx, tx, account, id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE notify_receiver SET code_hash = $1, code_channel = $2, code_tries = 0, code_expires_ms = $3 WHERE id = $4`,
			codeHash(id, code), string(c), sqldb.Ms(now.Add(codeLife)), id)
		return err
	})
	if err != nil {
		return err
	}
	to := r.Mail
	if c == SMS {
		to = r.Phone
	}
	if to == "" {
		return invalid("the receiver has no address for %s", c)
	}
	o := Outgoing{ID: ids.New(now), To: to, Language: r.Language, At: now, Subject: "Your verification code is " + code, Body: "Enter " + code + " within 30 minutes to receive messages at this address. If you did not ask for it, do nothing."}
	if r.Language == "zh" {
		o.Subject, o.Body = "验证码 "+code, "请在 30 分钟内输入 "+code+"，以便在此地址接收消息。如非本人操作，请忽略。"
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.SendTimeout)
	defer cancel()
	_, err = sender.Send(ctx, o)
	return err
}

func codeHash(receiver, code string) string {
	h := sha256.Sum256([]byte(receiver + "/" + code))
	return hex.EncodeToString(h[:])
}

// Verify takes the code. Five wrong ones make it void.
func (s *Service) Verify(ctx context.Context, account, id, code string) error {
	var wrong bool
	err := s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		wrong = false
		if _, err := s.receiver(ctx, tx, account, id); err != nil {
			return err
		}
		var hash, channel string
		var tries, expires int64
		if err := tx.QueryRow(ctx, `SELECT code_hash, code_channel, code_tries, code_expires_ms FROM notify_receiver WHERE id = $1`, id).Scan(&hash, &channel, &tries, &expires); err != nil {
			return err
		}
		if hash == "" || tries >= codeTries || !s.now().Before(sqldb.Time(expires)) {
			return invalid("there is no valid code: ask for a new one")
		}
		if subtle.ConstantTimeCompare([]byte(hash), []byte(codeHash(id, code))) != 1 {
			wrong = true
			_, err := tx.Exec(ctx, `UPDATE notify_receiver SET code_tries = code_tries + 1 WHERE id = $1`, id)
			return err
		}
		column := "mail_verified"
		if Channel(channel) == SMS {
			column = "phone_verified"
		}
		_, err := tx.Exec(ctx, `UPDATE notify_receiver SET `+column+` = $1, mail_failing = '', code_hash = '' WHERE id = $2`, true, id)
		return err
	})
	if err == nil && wrong {
		return invalid("the code is wrong")
	}
	return err
}
