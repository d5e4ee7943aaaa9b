-- The calls. One row per final record; usage_open holds records of calls that
-- still run.
--
-- ORDER BY (time, request): every query has a time, pages are read in this
-- order from its end, and one call is found by its id because the id begins
-- with the instant it was made at. A buyer's own calls are thinned out by the
-- bloom filters instead of a sort order by account, which would spread each
-- batch over the whole part and cost every page of a seller or operator a sort.
-- As the key is (time, request), ReplacingMergeTree also removes a call that
-- came in two batches.
--
-- PARTITION BY month: retention drops whole months, and a batch falls into one
-- partition but for the turn of a month. An insert is atomic in a partition
-- only; the deduplication token completes the other one.
CREATE TABLE IF NOT EXISTS usage_call {{cluster}}
(
    time         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    request      FixedString(16)      CODEC(ZSTD(1)),
    finished     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    stored       DateTime('UTC') DEFAULT now() CODEC(Delta, ZSTD(1)),
    batch        FixedString(16)      CODEC(ZSTD(1)),
    {{dims}},
    flags        UInt16,
    latency      UInt16 CODEC(ZSTD(1)),
    {{amounts}},
    body         String CODEC(ZSTD(3)),
    INDEX by_request request      TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_account account      TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_subscription subscription TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = {{engine:ReplacingMergeTree}}
PARTITION BY toYYYYMM(time)
ORDER BY (time, request)
{{ttl:toDateTime(greatest(time, toDateTime64(stored, 3, 'UTC'))):retention}}
SETTINGS {{window}}, ttl_only_drop_parts = 1;

-- Records of calls that still run, written so that a crash keeps what was
-- delivered: the newest of a request counts until a final one is there. They
-- are few and are removed after a month, so rollups leave them alone; queries
-- add them. ORDER BY (request): the newest by finished replaces the others.
CREATE TABLE IF NOT EXISTS usage_open {{cluster}}
(
    time         DateTime64(3, 'UTC'),
    request      FixedString(16),
    finished     DateTime64(3, 'UTC'),
    stored       DateTime('UTC') DEFAULT now(),
    batch        FixedString(16),
    {{dims}},
    flags        UInt16,
    latency      UInt16,
    {{amounts}},
    body         String CODEC(ZSTD(3))
)
ENGINE = {{engine:ReplacingMergeTree:finished}}
ORDER BY request
{{ttl:toDateTime(greatest(time, toDateTime64(stored, 3, 'UTC'))):retention}}
SETTINGS {{window}};

-- The rollups: sums per group of calls and minute, hour and day (UTC).
--
-- ORDER BY begins with the bucket: every query has a time, and most are over
-- everything in it. The rest of the key is all that calls are grouped and
-- filtered by. A minute has few groups, so a day of minutes is small.
--
-- AggregatingMergeTree with SimpleAggregateFunction: plain numbers that any
-- tool can sum; latencies are counts by logarithmic bucket (1 % wide), so
-- percentiles can be read for any time and any grouping, and can be corrected,
-- which quantile states cannot.
CREATE TABLE IF NOT EXISTS usage_minute {{cluster}}
(
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    {{dims}},
    counted UInt8,
    {{sums}}
)
ENGINE = {{engine:AggregatingMergeTree}}
PARTITION BY toYYYYMM(bucket)
ORDER BY (bucket, {{dimnames}}, counted)
{{ttl:bucket:minute}}
SETTINGS {{window}}, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS usage_hour {{cluster}}
(
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    {{dims}},
    counted UInt8,
    {{sums}}
)
ENGINE = {{engine:AggregatingMergeTree}}
PARTITION BY toYYYYMM(bucket)
ORDER BY (bucket, {{dimnames}}, counted)
{{ttl:bucket:rollup}}
SETTINGS {{window}}, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS usage_day {{cluster}}
(
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    {{dims}},
    counted UInt8,
    {{sums}}
)
ENGINE = {{engine:AggregatingMergeTree}}
PARTITION BY toYear(bucket)
ORDER BY (bucket, {{dimnames}}, counted)
{{ttl:bucket:rollup}}
SETTINGS {{window}}, ttl_only_drop_parts = 1;

-- Each view reads the calls, not the next finer rollup: so each can be
-- corrected alone without feeding the next.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_minute_of {{cluster}} TO usage_minute AS {{rollup:minute}};

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_hour_of {{cluster}} TO usage_hour AS {{rollup:hour}};

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_day_of {{cluster}} TO usage_day AS {{rollup:day}};
