-- +goose Up

-- The levels of what remains that are watched on one unit of a subscription,
-- beside "used up", which always is. The quota store holds a copy of the newest
-- version.
CREATE TABLE billing_threshold (
    subscription      TEXT   NOT NULL REFERENCES billing_subscription (id),
    unit              TEXT   NOT NULL,
    version           BIGINT NOT NULL CHECK (version >= 1),
    levels            TEXT   NOT NULL, -- JSON [{"kind":"percent","value":20}]
    delivered_version BIGINT NOT NULL, -- 0: the quota store has never had it
    changed_by        TEXT   NOT NULL,
    updated_ms        BIGINT NOT NULL,
    PRIMARY KEY (subscription, unit),
    CHECK (delivered_version <= version)
);
CREATE INDEX billing_threshold_due ON billing_threshold (subscription) WHERE delivered_version < version;

-- Subscriptions from before this table are watched from now on.
INSERT INTO billing_threshold (subscription, unit, version, levels, delivered_version, changed_by, updated_ms)
    SELECT id, unit_key, 1, '[]', 0, '', created_ms FROM billing_subscription WHERE state <> 'closed' AND unit_key NOT LIKE '%,%';

-- Crossings as the quota store told of them: at least once there, once here.
CREATE TABLE billing_crossing (
    id           TEXT   NOT NULL PRIMARY KEY, -- ULID of its arrival
    crossing     TEXT   NOT NULL UNIQUE, -- the quota store's id: subscription/unit/threshold/arm
    subscription TEXT   NOT NULL,
    unit         TEXT   NOT NULL,
    kind         TEXT   NOT NULL,
    value        BIGINT NOT NULL,
    arm          BIGINT NOT NULL, -- how often it was armed, from 1
    remaining    BIGINT NOT NULL,
    total        BIGINT NOT NULL,
    at_ms        BIGINT NOT NULL, -- when it happened, by the quota store's clock
    received_ms  BIGINT NOT NULL
);
CREATE INDEX billing_crossing_subscription ON billing_crossing (subscription, id);

-- +goose Down
DROP TABLE billing_crossing;
DROP TABLE billing_threshold;
