package config

import "time"

// Usage is the store of usage rows.
type Usage struct {
	// Store: embedded, clickhouse://user:password@host:9000/database (native
	// protocol), clickhouse+http://…:8123/… or clickhouse+https://…. Default
	// embedded, good for a million calls a day. A gateway of another process
	// ships to the admin role when this is embedded, and straight to ClickHouse
	// otherwise.
	Store Secret `koanf:"store"`
	// Cluster of ClickHouse on which the tables are made as replicated ones.
	// Default none: one server.
	Cluster string `koanf:"cluster"`
	// Retention of single calls. Default 400 days (9600h); 0 keeps all.
	Retention time.Duration `koanf:"retention"`
	// MinuteRetention of figures per minute. Default 400 days (9600h); 0 keeps
	// all. Zones whose hours begin at odd minutes are answered from them.
	MinuteRetention time.Duration `koanf:"minute_retention"`
	// RollupRetention of figures per hour and day. Default 5 years (43800h); 0
	// keeps all.
	RollupRetention time.Duration `koanf:"rollup_retention"`
	// Batch is how many records are sent at once at most. Default 0: 2000 to
	// the embedded store and the admin role, 50000 to ClickHouse. Each record
	// of a batch costs about a kilobyte of memory.
	Batch int `koanf:"batch"`
	// Linger is how long a batch that is not full waits for more: how late a
	// row is when nothing is wrong. Default 200ms; with ClickHouse and many
	// gateways 1s or more saves it parts to merge.
	Linger time.Duration `koanf:"linger"`
	// Timeout of sending one batch. Default 1m.
	Timeout time.Duration `koanf:"timeout"`
	// MaxBacklog is how much of a journal may wait for the usage store before
	// new calls are refused. Default 0: until the journal's disk is full.
	MaxBacklog Size `koanf:"max_backlog"`
	// RatingGrace is how long after its end an hour of on-demand use is sealed
	// for billing: rows that come later make an adjustment. Default 10m.
	RatingGrace time.Duration `koanf:"rating_grace"`
	// RatingLookback is how long sealed hours are compared with the usage rows;
	// what a node brings later than that is not charged. Default 30 days (720h).
	RatingLookback time.Duration `koanf:"rating_lookback"`
}
