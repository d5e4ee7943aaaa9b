package admin

import (
	"context"
	"log/slog"
	"net/http"

	"tollgate/internal/ids"
	"tollgate/internal/receipt"
)

// wireReceipt is a receipt and what its fields say.
type wireReceipt struct {
	Receipt string            `json:"receipt" doc:"The signed text, as X-Tollgate-Receipt carries it. Everything before ;sig= is signed by HMAC-SHA256 with the key's text: printf %s \"${RECEIPT%;sig=*}\" | openssl dgst -sha256 -hmac \"$KEY\""`
	KeyID   string            `json:"key_id" doc:"The key that signed."`
	Fields  map[string]string `json:"fields" doc:"The fields of the receipt by name."`
	Record  wireRecord        `json:"record" doc:"The record the receipt was made of."`
}

// ByReceiptKey names a receipt key of an account.
type ByReceiptKey struct {
	ByID
	Key string `path:"key_id" maxLength:"64" doc:"The receipt key's id."`
}

// registerReceipts serves receipts and the keys that sign them. A key's text is
// the account's alone, as an AppSecret is: an operator cannot read it.
func (s *Server) registerReceipts(tag string) {
	handle(s, route{method: http.MethodGet, path: "/usage/receipts/{request_id}", id: "get-receipt", tag: tag, summary: "The signed receipt of one call", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ID  string `path:"request_id" maxLength:"64" doc:"The X-Request-Id of the call."`
			Key string `query:"key_id" maxLength:"64" doc:"Sign with this key of the account, to compare with a receipt of the time; default: its current key."`
		},
		) (*body[wireReceipt], error) {
			id, err := ids.ParseRequest(in.ID)
			if err != nil {
				return nil, ErrNotFound
			}
			if s.deps.Usage == nil {
				return nil, ErrUnavailable
			}
			rec, err := s.deps.Usage.ByRequest(ctx, id)
			if err != nil {
				return nil, err
			}
			if !a.owns(rec.Account) {
				return nil, ErrNotFound
			}
			text, err := s.Receipt(ctx, &rec, in.Key)
			if err != nil {
				return nil, err
			}
			fields, err := receipt.Parse(text)
			if err != nil {
				return nil, err
			}
			out := wireReceipt{Receipt: text, Fields: make(map[string]string, len(fields)), Record: showRecord(&rec)}
			for _, f := range fields {
				out.Fields[f.Name] = f.Value
			}
			out.KeyID = out.Fields["key"]
			return reply(out), nil
		})

	handle(s, route{method: http.MethodPost, path: "/accounts/{id}/receipt-keys", id: "create-receipt-key", tag: tag, summary: "Make the account's receipt key; the one before is kept to check what it signed", roles: buyerOnly, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Repeatable
			Body struct {
				Header *bool `json:"header,omitempty" doc:"Default true: put the receipt into the header of plain answers. It costs the gateway about a microsecond of each, and some 400 bytes."`
			}
		},
		) (*body[NewReceiptKey], error) {
			if !a.owns(in.ID) {
				return nil, ErrNotFound
			}
			key, err := s.createReceiptKey(ctx, in.once(a, "create-receipt-key"), in.ID, in.Body.Header == nil || *in.Body.Header)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "receipt_key.create", slog.String("id", key.ID))
			return reply(key), nil
		})

	handle(s, route{method: http.MethodGet, path: "/accounts/{id}/receipt-keys", id: "list-receipt-keys", tag: tag, summary: "List an account's receipt keys", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByID) (*body[list[ReceiptKey]], error) {
			if !a.owns(in.ID) {
				return nil, ErrNotFound
			}
			keys, err := s.ReceiptKeys(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return listed(keys, "", same), nil
		})

	handle(s, route{method: http.MethodPost, path: "/accounts/{id}/receipt-keys/{key_id}/reveal", id: "reveal-receipt-key", tag: tag, summary: "Show a receipt key in clear; audited", roles: buyerOnly},
		func(ctx context.Context, a Actor, in *ByReceiptKey) (*body[NewReceiptKey], error) {
			if !a.owns(in.ID) || in.Key == "" {
				return nil, ErrNotFound
			}
			key, err := s.RevealReceiptKey(ctx, a, in.ID, in.Key)
			if err != nil {
				return nil, err
			}
			return reply(key), nil
		})

	handle(s, route{method: http.MethodPatch, path: "/accounts/{id}/receipt-keys/{key_id}", id: "change-receipt-key", tag: tag, summary: "Put receipts into the header of plain answers, or stop it", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ByReceiptKey
			Body struct {
				Header bool `json:"header"`
			}
		},
		) (*body[ReceiptKey], error) {
			if !a.owns(in.ID) {
				return nil, ErrNotFound
			}
			key, err := s.SetReceiptHeader(ctx, in.ID, in.Key, in.Body.Header)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "receipt_key.change", slog.String("id", key.ID), slog.Bool("header", key.Header))
			return reply(key), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/accounts/{id}/receipt-keys/{key_id}", id: "delete-receipt-key", tag: tag, summary: "Forget a receipt key: what it signed cannot be checked here any more", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByReceiptKey) (*none, error) {
			if !a.owns(in.ID) {
				return nil, ErrNotFound
			}
			if err := s.DeleteReceiptKey(ctx, in.ID, in.Key); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "receipt_key.delete", slog.String("id", in.Key))
			return nil, nil
		})
}
