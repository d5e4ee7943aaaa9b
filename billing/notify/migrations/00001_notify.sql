-- +goose Up

-- A message is never changed, but for being read.
CREATE TABLE notify_message (
    id         TEXT   NOT NULL PRIMARY KEY,
    account    TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    category   TEXT   NOT NULL,
    dedup      TEXT   NOT NULL, -- what makes it the same message
    object     TEXT   NOT NULL, -- id of what it is about, or ''
    data       TEXT   NOT NULL, -- JSON: the variables of its texts
    texts      TEXT   NOT NULL, -- JSON {"zh":{"subject":…,"body":…},"en":…}
    created_ms BIGINT NOT NULL,
    read_ms    BIGINT NOT NULL, -- 0: not yet
    UNIQUE (account, kind, dedup)
);
CREATE INDEX notify_message_account ON notify_message (account, id);

CREATE TABLE notify_receiver (
    id              TEXT    NOT NULL PRIMARY KEY,
    account         TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    mail            TEXT    NOT NULL,
    phone           TEXT    NOT NULL,
    language        TEXT    NOT NULL CHECK (language IN ('zh', 'en')),
    owner           BOOLEAN NOT NULL, -- the account's own contact: cannot be removed (MSG-4)
    mail_verified   BOOLEAN NOT NULL,
    phone_verified  BOOLEAN NOT NULL,
    mail_failing    TEXT    NOT NULL, -- the server's last word that the address is wrong, or ''
    code_hash       TEXT    NOT NULL, -- of the verification code that is out, or ''
    code_channel    TEXT    NOT NULL,
    code_tries      BIGINT  NOT NULL,
    code_expires_ms BIGINT  NOT NULL,
    created_ms      BIGINT  NOT NULL
);
CREATE INDEX notify_receiver_account ON notify_receiver (account, id);
CREATE UNIQUE INDEX notify_receiver_owner ON notify_receiver (account) WHERE owner;

-- What a receiver gets of a category; no row: the default.
CREATE TABLE notify_setting (
    receiver   TEXT   NOT NULL REFERENCES notify_receiver (id),
    category   TEXT   NOT NULL,
    channels   TEXT   NOT NULL, -- JSON list
    frequency  TEXT   NOT NULL CHECK (frequency IN ('now', 'daily', 'off')),
    changed_by TEXT   NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (receiver, category)
);

CREATE TABLE notify_endpoint (
    id         TEXT   NOT NULL PRIMARY KEY,
    account    TEXT   NOT NULL,
    url        TEXT   NOT NULL,
    categories TEXT   NOT NULL, -- JSON list; empty: all
    secret     TEXT   NOT NULL, -- sealed
    previous   TEXT   NOT NULL, -- sealed: signs as well until previous_ms
    previous_ms BIGINT NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('active', 'disabled')),
    reason     TEXT   NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX notify_endpoint_account ON notify_endpoint (account, id);

CREATE TABLE notify_delivery (
    id         TEXT   NOT NULL PRIMARY KEY,
    message    TEXT   NOT NULL REFERENCES notify_message (id),
    account    TEXT   NOT NULL,
    category   TEXT   NOT NULL,
    channel    TEXT   NOT NULL,
    receiver   TEXT   NOT NULL, -- receiver or endpoint
    target     TEXT   NOT NULL, -- address at that time
    language   TEXT   NOT NULL,
    subject    TEXT   NOT NULL,
    body       TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('pending', 'sent', 'failed', 'unsent')),
    attempts   BIGINT NOT NULL,
    due_ms     BIGINT NOT NULL,
    lease_ms   BIGINT NOT NULL, -- another process sends it until then
    digest     BOOLEAN NOT NULL,
    batch      TEXT   NOT NULL, -- the mail it left in: id of the delivery that carried it
    last       TEXT   NOT NULL, -- code or error of the last attempt
    created_ms BIGINT NOT NULL,
    done_ms    BIGINT NOT NULL  -- 0: not yet
);
CREATE INDEX notify_delivery_due ON notify_delivery (due_ms, id) WHERE state = 'pending';
CREATE INDEX notify_delivery_account ON notify_delivery (account, id);
CREATE INDEX notify_delivery_message ON notify_delivery (message, id);

CREATE TABLE notify_attempt (
    delivery TEXT   NOT NULL REFERENCES notify_delivery (id),
    n        BIGINT NOT NULL,
    at_ms    BIGINT NOT NULL,
    took_ms  BIGINT NOT NULL,
    ok       BOOLEAN NOT NULL,
    code     TEXT   NOT NULL, -- SMTP code or HTTP status, or ''
    error    TEXT   NOT NULL,
    PRIMARY KEY (delivery, n)
);

-- +goose Down
DROP TABLE notify_attempt;
DROP TABLE notify_delivery;
DROP TABLE notify_endpoint;
DROP TABLE notify_setting;
DROP TABLE notify_receiver;
DROP TABLE notify_message;
