-- +goose Up

-- Levels that follow from alerts and auto-repurchase, beside those somebody set.
ALTER TABLE billing_threshold ADD COLUMN derived TEXT NOT NULL DEFAULT '[]';

-- The alert of one account on one spec, all its versions together. A row that is
-- switched off keeps the default from coming back (ALERT-7).
CREATE TABLE billing_alert (
    account    TEXT    NOT NULL,
    series     TEXT    NOT NULL,
    enabled    BOOLEAN NOT NULL,
    kind       TEXT    NOT NULL CHECK (kind IN ('percent', 'absolute')),
    value      BIGINT  NOT NULL CHECK (value >= 0),
    changed_by TEXT    NOT NULL,
    updated_ms BIGINT  NOT NULL,
    PRIMARY KEY (account, series)
);
CREATE INDEX billing_order_subscription ON billing_order (subscription, series);

-- Who may act for whom (DELEG-6). A deleted one stays as a trace.
CREATE TABLE billing_agency (
    id         TEXT   NOT NULL PRIMARY KEY,
    grantor    TEXT   NOT NULL,
    trustee    TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    policy     TEXT   NOT NULL,
    version    TEXT   NOT NULL, -- of the policy, when it was granted
    granted_by TEXT   NOT NULL,
    granted_ms BIGINT NOT NULL,
    deleted_by TEXT   NOT NULL,
    deleted_ms BIGINT NOT NULL  -- 0: in force
);
CREATE UNIQUE INDEX billing_agency_active ON billing_agency (grantor, name, policy) WHERE deleted_ms = 0;

-- Auto-repurchase of one subscription. pending names the crossing that is being
-- acted on: it is set in the transaction that learns of the crossing and cleared
-- in the one that pays the order, so a crash between the two leaves it due.
CREATE TABLE billing_repurchase (
    id              TEXT    NOT NULL PRIMARY KEY,
    subscription    TEXT    NOT NULL UNIQUE REFERENCES billing_subscription (id),
    account         TEXT    NOT NULL,
    product         TEXT    NOT NULL,
    series          TEXT    NOT NULL,
    spec            TEXT    NOT NULL, -- version the buyer chose
    price           BIGINT  NOT NULL, -- list price then (REPO-35)
    agreement       TEXT    NOT NULL, -- version the buyer agreed to
    kind            TEXT    NOT NULL CHECK (kind IN ('percent', 'absolute')),
    value           BIGINT  NOT NULL,
    every_hours     BIGINT  NOT NULL, -- at most one order in so many; 0: no limit
    day_limit       BIGINT  NOT NULL CHECK (day_limit > 0), -- packages a day
    month_cap       BIGINT  NOT NULL CHECK (month_cap >= 0), -- millionths of a yuan; 0: none
    state           TEXT    NOT NULL CHECK (state IN ('on', 'off', 'waiting', 'failing', 'invalid')),
    failure         TEXT    NOT NULL, -- code of the last try, or ''
    needed          BIGINT  NOT NULL, -- balance that the last try lacked, or 0
    pending         TEXT    NOT NULL, -- crossing being acted on, or ''
    parts           BIGINT  NOT NULL, -- orders made for it so far
    pending_ms      BIGINT  NOT NULL, -- when it was set
    attempts        BIGINT  NOT NULL, -- failed tries for it in a row
    due_ms          BIGINT  NOT NULL, -- 0: not by time
    last_order      TEXT    NOT NULL,
    last_success_ms BIGINT  NOT NULL,
    version         BIGINT  NOT NULL, -- raised by every change
    changed_by      TEXT    NOT NULL,
    created_ms      BIGINT  NOT NULL,
    updated_ms      BIGINT  NOT NULL
);
CREATE INDEX billing_repurchase_account ON billing_repurchase (account, id);
CREATE INDEX billing_repurchase_pending ON billing_repurchase (due_ms, id) WHERE pending <> '';

-- Every try that ended, for the resource's details (REPO-30).
CREATE TABLE billing_repurchase_try (
    id         TEXT    NOT NULL PRIMARY KEY,
    repurchase TEXT    NOT NULL REFERENCES billing_repurchase (id),
    crossing   TEXT    NOT NULL,
    code       TEXT    NOT NULL, -- '' when it bought
    order_id   TEXT    NOT NULL,
    quantity   BIGINT  NOT NULL,
    amount     BIGINT  NOT NULL,
    noticed    BOOLEAN NOT NULL, -- a failure notice went out with it (REPO-36)
    next_ms    BIGINT  NOT NULL, -- next try by time; 0: none
    at_ms      BIGINT  NOT NULL
);
CREATE INDEX billing_repurchase_try_of ON billing_repurchase_try (repurchase, id);

-- +goose Down
DROP TABLE billing_repurchase_try;
DROP TABLE billing_repurchase;
DROP TABLE billing_agency;
DROP INDEX billing_order_subscription;
DROP TABLE billing_alert;
ALTER TABLE billing_threshold DROP COLUMN derived;
