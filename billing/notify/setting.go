package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/internal/sqldb"
)

// Frequency is how soon a receiver gets a category's messages.
type Frequency string

// The frequencies. Daily gathers mails into one; other channels are not
// affected by it.
const (
	Now   Frequency = "now"
	Daily Frequency = "daily"
	Off   Frequency = "off"
)

// Setting is what one receiver gets of one category. The inbox is not part of
// it: it has everything.
type Setting struct {
	Receiver  string
	Category  string
	Channels  []Channel
	Frequency Frequency
	// ChangedBy and Changed tell who chose; empty for the default.
	ChangedBy string
	Changed   time.Time
}

// setting returns what is in force for a receiver and category.
func (s *Service) setting(ctx context.Context, q querier, r Receiver, c Category) (Setting, error) {
	set := Setting{Receiver: r.ID, Category: c.Name, Frequency: Off}
	if r.Owner {
		set.Frequency, set.Channels = Now, c.Channels
	}
	var changed int64
	err := q.QueryRow(ctx, `SELECT channels, frequency, changed_by, changed_ms FROM notify_setting WHERE receiver = $1 AND category = $2`, r.ID, c.Name).
		Scan(sqldb.JSON(&set.Channels), &set.Frequency, &set.ChangedBy, &changed)
	if errors.Is(err, sql.ErrNoRows) {
		return set, nil
	}
	if err != nil {
		return set, fmt.Errorf("read a setting: %w", err)
	}
	set.Changed = sqldb.Time(changed)
	return set, nil
}

// Settings returns what is in force for a receiver, one for each category.
func (s *Service) Settings(ctx context.Context, account, receiver string) ([]Setting, error) {
	r, err := s.Receiver(ctx, account, receiver)
	if err != nil {
		return nil, err
	}
	var all []Setting
	for _, c := range Categories {
		set, err := s.setting(ctx, s.db, r, c)
		if err != nil {
			return nil, err
		}
		all = append(all, set)
	}
	return all, nil
}

// Set changes what a receiver gets of a category. The account's owner cannot
// switch a required category off, nor all its channels; they can choose which.
func (s *Service) Set(ctx context.Context, account string, set Setting) error {
	c, ok := category(set.Category)
	if !ok {
		return invalid("there is no category %q", set.Category)
	}
	for _, ch := range set.Channels {
		if ch != Mail && ch != SMS && ch != Voice {
			return invalid("channel %q: choose from mail, sms and voice", ch)
		}
	}
	slices.Sort(set.Channels)
	set.Channels = slices.Compact(set.Channels)
	if set.Frequency != Now && set.Frequency != Daily && set.Frequency != Off {
		return invalid("frequency %q: choose now, daily or off", set.Frequency)
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		r, err := s.receiver(ctx, tx, account, set.Receiver)
		if err != nil {
			return err
		}
		if c.Required && r.Owner && (set.Frequency != Now || len(set.Channels) == 0) {
			return invalid("messages about %s are required: choose the channels, but they come at once", c.En)
		}
		_, err = tx.Exec(ctx, `INSERT INTO notify_setting (receiver, category, channels, frequency, changed_by, changed_ms) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (receiver, category) DO UPDATE SET channels = excluded.channels, frequency = excluded.frequency, changed_by = excluded.changed_by, changed_ms = excluded.changed_ms`,
			set.Receiver, set.Category, sqldb.JSON(set.Channels), string(set.Frequency), set.ChangedBy, sqldb.Ms(s.now()))
		return err
	})
}

// unsubscribeLink returns the address at which a receiver leaves a category
// with one POST (RFC 8058), or "" where that is not allowed.
func (s *Service) unsubscribeLink(receiver, categoryName string) string {
	c, ok := category(categoryName)
	if !ok || c.Required || s.o.BaseURL == "" || len(s.o.Key) < 16 {
		return ""
	}
	return strings.TrimRight(s.o.BaseURL, "/") + "/unsubscribe?token=" + receiver + "." + categoryName + "." + s.sign(receiver+"."+categoryName)
}

func (s *Service) sign(text string) string {
	mac := hmac.New(sha256.New, s.o.Key)
	mac.Write([]byte("unsubscribe/" + text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Unsubscribe switches off what a token of an unsubscribe link names and
// returns the category. It needs no login: the token is the proof.
func (s *Service) Unsubscribe(ctx context.Context, token string) (Category, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(s.o.Key) < 16 || !hmac.Equal([]byte(parts[2]), []byte(s.sign(parts[0]+"."+parts[1]))) {
		return Category{}, invalid("this unsubscribe link is damaged: use the settings of the message centre")
	}
	var account string
	err := s.db.QueryRow(ctx, `SELECT account FROM notify_receiver WHERE id = $1`, parts[0]).Scan(&account)
	if errors.Is(err, sql.ErrNoRows) {
		return Category{}, fmt.Errorf("%w: the receiver is gone already", ErrNotFound)
	}
	if err != nil {
		return Category{}, err
	}
	c, _ := category(parts[1])
	return c, s.Set(ctx, account, Setting{Receiver: parts[0], Category: parts[1], Frequency: Off, ChangedBy: "unsubscribe link"})
}
