package metering

import (
	"context"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
)

// Source is where the shipper takes records from: a *journal.Consumer. It has
// four methods because reading, being done and going back belong to one
// cursor. It is used by one goroutine at a time.
type Source interface {
	// Next waits for the next record; its payload is valid until the next call.
	Next(ctx context.Context) (journal.Record, error)
	// TryNext returns the next record if there is one already.
	TryNext() (journal.Record, bool, error)
	// Ack says that everything before end is done with. What was read and not
	// acknowledged MUST come again after Rewind and after a restart.
	Ack(end journal.Position) error
	// Rewind goes back to what was acknowledged last.
	Rewind()
}

// Sink is where the shipper puts records: the embedded Store, a remote one.
//
// Insert MUST be idempotent on the request id: the same records may come
// again, in other batches, after any outcome. When it answers nil all of them
// MUST be durable. It may keep nothing of recs after it returns.
type Sink interface {
	Insert(ctx context.Context, recs []usage.Record) error
}

// BatchSink is a Sink that makes use of a batch's identity.
//
// InsertBatch MUST leave exactly one row for each record however often the
// same batch is given, whatever became of the earlier tries.
type BatchSink interface {
	InsertBatch(ctx context.Context, b Batch) error
}

// EncodedSink is a Sink that takes records as they lie in the journal, which
// spares the shipper reading each of them.
//
// InsertEncoded is like Insert. Each record in body is a uvarint length and the
// bytes of usage.AppendRecord.
type EncodedSink interface {
	InsertEncoded(ctx context.Context, body []byte) error
}
