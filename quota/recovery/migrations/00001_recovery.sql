-- +goose Up

-- One row: what the quota store was last known to be.
CREATE TABLE quota_store (
    id               BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    generation       BIGINT NOT NULL, -- the highest ever given out
    server           TEXT   NOT NULL, -- which server had it
    claimed_by       TEXT   NOT NULL, -- the process that rebuilds; empty: none
    claimed_until_ms BIGINT NOT NULL,
    rebuilds         BIGINT NOT NULL, -- rebuilds that restored something
    rebuilt_ms       BIGINT NOT NULL, -- the last of them
    reason           TEXT   NOT NULL  -- of the last of them
);
INSERT INTO quota_store (id, generation, server, claimed_by, claimed_until_ms, rebuilds, rebuilt_ms, reason)
    VALUES (1, 0, '', '', 0, 0, 0, '');

-- What one incarnation did on one subscription. Figures only grow.
CREATE TABLE quota_checkpoint (
    subscription TEXT   NOT NULL,
    node         TEXT   NOT NULL,
    boot         BIGINT NOT NULL,
    final        BIGINT NOT NULL, -- 1: closed for good
    overrun      TEXT   NOT NULL, -- JSON {"call":1}
    PRIMARY KEY (subscription, node, boot)
);
CREATE TABLE quota_checkpoint_counter (
    subscription TEXT   NOT NULL,
    node         TEXT   NOT NULL,
    boot         BIGINT NOT NULL,
    lot          TEXT   NOT NULL,
    from_ms      BIGINT NOT NULL, -- start of the lot's period
    granted      BIGINT NOT NULL,
    used         BIGINT NOT NULL,
    returned     BIGINT NOT NULL,
    PRIMARY KEY (subscription, node, boot, lot, from_ms)
);

-- +goose Down
DROP TABLE quota_checkpoint_counter;
DROP TABLE quota_checkpoint;
DROP TABLE quota_store;
