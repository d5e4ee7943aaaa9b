package billing

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"tollgate/internal/money"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
)

// BenchmarkPurchase buys for one buyer after another, each purchase with its
// money, order, lot and delivery, all buyers of one seller.
func BenchmarkPurchase(b *testing.B) {
	for name, open := range map[string]func() sqldb.Options{
		"sqlite":   func() sqldb.Options { return sqldb.Options{Dir: b.TempDir()} },
		"postgres": func() sqldb.Options { return sqldb.Options{URL: postgres.URL(b)} },
	} {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			db, err := sqldb.Open(ctx, open())
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			s, err := New(ctx, Options{DB: db, Lots: newQuotaStore()})
			if err != nil {
				b.Fatal(err)
			}
			spec, err := s.CreateSpec(ctx, perCall())
			if err != nil {
				b.Fatal(err)
			}
			const buyers = 16
			for i := range buyers {
				in := TopUpInput{Account: fmt.Sprint(i), Amount: 1_000_000_000 * money.Yuan, IdempotencyKey: "k"}
				if _, err := s.TopUp(ctx, in); err != nil {
					b.Fatal(err)
				}
			}
			var n atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					in := PurchaseInput{Account: fmt.Sprint(i % buyers), Spec: spec.ID, Quantity: 1, IdempotencyKey: fmt.Sprint(i)}
					if _, err := s.Purchase(ctx, in); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
