-- +goose Up

-- A spec is one version of something that can be bought. Its row never changes
-- but for state: an edit is a new row of the same series.
CREATE TABLE billing_spec (
    id              TEXT    NOT NULL PRIMARY KEY,
    series          TEXT    NOT NULL, -- id of the first version
    version         BIGINT  NOT NULL, -- from 1 within the series
    product         TEXT    NOT NULL,
    seller          TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    mode            TEXT    NOT NULL,
    quotas          TEXT    NOT NULL, -- JSON [{"unit":"call","amount":1000}]
    price           BIGINT  NOT NULL CHECK (price >= 0), -- millionths of a yuan, for a quantity of one
    validity_months BIGINT  NOT NULL CHECK (validity_months >= 0),
    validity_ms     BIGINT  NOT NULL CHECK (validity_ms >= 0),
    reset_cycle     TEXT    NOT NULL,
    zone            TEXT    NOT NULL,
    purchase_limit  BIGINT  NOT NULL CHECK (purchase_limit >= 0), -- per account over the series, 0: none
    state           TEXT    NOT NULL CHECK (state IN ('on_sale', 'withdrawn', 'superseded')),
    actor           TEXT    NOT NULL,
    created_ms      BIGINT  NOT NULL,
    UNIQUE (series, version)
);
CREATE INDEX billing_spec_product ON billing_spec (product, id);
CREATE INDEX billing_spec_seller ON billing_spec (seller, id);

-- A ledger account's balance is the projection of its entries: the sum of their
-- amounts, and the balance of the last one.
CREATE TABLE billing_ledger_account (
    id         TEXT    NOT NULL PRIMARY KEY, -- kind/owner/purpose
    floored    BOOLEAN NOT NULL,             -- may not go below zero
    balance    BIGINT  NOT NULL,
    entries    BIGINT  NOT NULL,             -- sequence number of the last entry
    updated_ms BIGINT  NOT NULL,
    CHECK (balance >= 0 OR NOT floored)
);

-- Rows of billing_ledger_tx and billing_ledger_entry are only ever inserted.
CREATE TABLE billing_ledger_tx (
    id         TEXT   NOT NULL PRIMARY KEY,
    kind       TEXT   NOT NULL,
    reference  TEXT   NOT NULL, -- what it pays for: an order, a receipt
    reverses   TEXT   NOT NULL, -- transaction it takes back, or ''
    reason     TEXT   NOT NULL,
    actor      TEXT   NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX billing_ledger_tx_reverses ON billing_ledger_tx (reverses) WHERE reverses <> '';

-- The amounts of one transaction sum to zero.
CREATE TABLE billing_ledger_entry (
    account    TEXT   NOT NULL REFERENCES billing_ledger_account (id),
    seq        BIGINT NOT NULL, -- 1, 2, 3, … within the account, without gaps
    tx         TEXT   NOT NULL REFERENCES billing_ledger_tx (id),
    amount     BIGINT NOT NULL CHECK (amount <> 0),
    balance    BIGINT NOT NULL, -- of the account after this entry
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (account, seq),
    UNIQUE (tx, account)
);

-- What was already done under an idempotency key, and with which input.
CREATE TABLE billing_request (
    scope      TEXT   NOT NULL, -- operation/account
    key        TEXT   NOT NULL,
    input_hash TEXT   NOT NULL,
    result     TEXT   NOT NULL, -- id of what was made
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE TABLE billing_subscription (
    id         TEXT   NOT NULL PRIMARY KEY,
    account    TEXT   NOT NULL,
    product    TEXT   NOT NULL,
    mode       TEXT   NOT NULL,
    family     TEXT   NOT NULL, -- modes whose packages share a subscription
    unit_key   TEXT   NOT NULL, -- names of the units in their order, joined by commas
    state      TEXT   NOT NULL CHECK (state IN ('active', 'frozen', 'closed')),
    reason     TEXT   NOT NULL, -- why it is frozen or closed
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
-- One open subscription for each buyer, product, family and unit set (PKG-9).
CREATE UNIQUE INDEX billing_subscription_open ON billing_subscription (account, product, family, unit_key) WHERE state <> 'closed';
CREATE INDEX billing_subscription_account ON billing_subscription (account, id);
CREATE INDEX billing_subscription_product ON billing_subscription (product, id);

CREATE TABLE billing_order (
    id              TEXT   NOT NULL PRIMARY KEY,
    type            TEXT   NOT NULL,
    account         TEXT   NOT NULL,
    seller          TEXT   NOT NULL,
    product         TEXT   NOT NULL,
    spec            TEXT   NOT NULL REFERENCES billing_spec (id),
    series          TEXT   NOT NULL,
    quantity        BIGINT NOT NULL CHECK (quantity > 0),
    unit_price      BIGINT NOT NULL,
    amount          BIGINT NOT NULL CHECK (amount >= 0),
    payment         TEXT   NOT NULL, -- balance; credit_limit, credit_voucher, external later (PAY-5)
    state           TEXT   NOT NULL CHECK (state IN ('pending_payment', 'processing', 'completed', 'cancelled', 'failed')),
    failure_code    TEXT   NOT NULL,
    subscription    TEXT   NOT NULL REFERENCES billing_subscription (id),
    ledger_tx       TEXT   NOT NULL, -- payment, or '' when the amount is zero
    idempotency_key TEXT   NOT NULL,
    actor           TEXT   NOT NULL,
    placed_ms       BIGINT NOT NULL,
    paid_ms         BIGINT NOT NULL, -- 0: not yet
    completed_ms    BIGINT NOT NULL  -- 0: not yet
);
CREATE INDEX billing_order_account ON billing_order (account, id);
CREATE INDEX billing_order_seller ON billing_order (seller, id);
CREATE INDEX billing_order_series ON billing_order (series, account);
CREATE INDEX billing_order_open ON billing_order (state, id) WHERE state IN ('pending_payment', 'processing');

-- A lot is the truth of one grant; the quota store holds a copy of its newest
-- version.
CREATE TABLE billing_lot (
    id                TEXT    NOT NULL PRIMARY KEY,
    subscription      TEXT    NOT NULL REFERENCES billing_subscription (id),
    order_id          TEXT    NOT NULL REFERENCES billing_order (id),
    unit              TEXT    NOT NULL,
    amount            BIGINT  NOT NULL CHECK (amount >= 0),
    effective_ms      BIGINT  NOT NULL,
    expires_ms        BIGINT  NOT NULL, -- 0: never
    reset_cycle       TEXT    NOT NULL,
    zone              TEXT    NOT NULL,
    zero_price        BOOLEAN NOT NULL,
    overflow          BOOLEAN NOT NULL,
    version           BIGINT  NOT NULL CHECK (version >= 1),
    void              BOOLEAN NOT NULL,
    delivered_version BIGINT  NOT NULL, -- 0: the quota store has never had it
    changed_by        TEXT    NOT NULL,
    change_reason     TEXT    NOT NULL,
    created_ms        BIGINT  NOT NULL,
    updated_ms        BIGINT  NOT NULL,
    CHECK (delivered_version <= version)
);
CREATE INDEX billing_lot_subscription ON billing_lot (subscription, id);
CREATE INDEX billing_lot_order ON billing_lot (order_id, id);

-- The outbox: lots whose newest version the quota store may not have yet. A row
-- is deleted once exactly that version was accepted.
CREATE TABLE billing_delivery (
    lot        TEXT   NOT NULL PRIMARY KEY REFERENCES billing_lot (id),
    version    BIGINT NOT NULL,
    attempts   BIGINT NOT NULL,
    due_ms     BIGINT NOT NULL,
    last_error TEXT   NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX billing_delivery_due ON billing_delivery (due_ms, lot);

-- +goose Down
DROP TABLE billing_delivery;
DROP TABLE billing_lot;
DROP TABLE billing_order;
DROP TABLE billing_subscription;
DROP TABLE billing_request;
DROP TABLE billing_ledger_entry;
DROP TABLE billing_ledger_tx;
DROP TABLE billing_ledger_account;
DROP TABLE billing_spec;
