-- +goose Up

-- One row: the directory's version. Every transaction that changes something
-- updates it first, which makes it the lock of the catalogue and of every
-- counted limit.
CREATE TABLE admin_version (
    id      BIGINT PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO admin_version (id, version) VALUES (1, 1);

-- Sealed settings: the pepper of the keyed hashes, and a text that proves that
-- the master key is the right one.
CREATE TABLE admin_settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE admin_accounts (
    id      TEXT PRIMARY KEY,
    kind    TEXT NOT NULL, -- buyer, seller
    name    TEXT NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (name)
);

CREATE TABLE admin_tokens (
    id          TEXT PRIMARY KEY,
    role        TEXT NOT NULL, -- operator, seller, buyer
    account     TEXT NOT NULL, -- empty for operators
    hash        TEXT NOT NULL, -- keyed, hexadecimal
    visible     TEXT NOT NULL, -- prefix and suffix, for lists
    description TEXT NOT NULL,
    created     BIGINT NOT NULL,
    expires     BIGINT NOT NULL, -- 0: never
    revoked     BIGINT NOT NULL, -- 0: not
    UNIQUE (hash)
);

CREATE TABLE admin_products (
    id             TEXT PRIMARY KEY,
    seller         TEXT NOT NULL REFERENCES admin_accounts (id),
    kind           TEXT NOT NULL, -- api, llm
    name           TEXT NOT NULL,
    description    TEXT NOT NULL,
    infer_id       TEXT NOT NULL, -- LLM-1; empty for API products
    models         TEXT NOT NULL, -- JSON
    host           TEXT NOT NULL,
    path           TEXT NOT NULL,
    methods        TEXT NOT NULL, -- JSON
    strip_path     BOOLEAN NOT NULL,
    simple_auth    BOOLEAN NOT NULL,
    on_disconnect  TEXT NOT NULL,
    bill_estimates BOOLEAN NOT NULL,
    forward_mock   BOOLEAN NOT NULL,
    published      BOOLEAN NOT NULL,
    revision       BIGINT NOT NULL, -- the ETag
    created        BIGINT NOT NULL,
    updated        BIGINT NOT NULL
);
CREATE INDEX admin_products_by_seller ON admin_products (seller, id);

CREATE TABLE admin_upstreams (
    id       TEXT PRIMARY KEY,
    product  TEXT NOT NULL REFERENCES admin_products (id),
    position BIGINT NOT NULL,
    url      TEXT NOT NULL,
    weight   BIGINT NOT NULL,
    headers  TEXT NOT NULL -- sealed JSON: they hold the upstream's credentials
);
CREATE INDEX admin_upstreams_by_product ON admin_upstreams (product, position);

CREATE TABLE admin_applications (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES admin_accounts (id),
    region  TEXT NOT NULL,
    name    TEXT NOT NULL,
    market  BOOLEAN NOT NULL, -- MARKETPLACE_APP, made by a purchase (AUTH-7)
    created BIGINT NOT NULL,
    UNIQUE (account, region, name)
);

-- One key pair per application. The secret must be read back to check
-- signatures, so it is sealed, not hashed.
CREATE TABLE admin_app_keys (
    id          TEXT PRIMARY KEY,
    application TEXT NOT NULL REFERENCES admin_applications (id),
    app_key     TEXT NOT NULL,
    secret      TEXT NOT NULL, -- sealed
    created     BIGINT NOT NULL,
    reset       BIGINT NOT NULL, -- when the secret was made
    UNIQUE (app_key),
    UNIQUE (application)
);

CREATE TABLE admin_app_codes (
    id          TEXT PRIMARY KEY,
    application TEXT NOT NULL REFERENCES admin_applications (id),
    hash        TEXT NOT NULL, -- keyed, hexadecimal
    visible     TEXT NOT NULL,
    created     BIGINT NOT NULL,
    UNIQUE (hash)
);
CREATE INDEX admin_app_codes_by_application ON admin_app_codes (application, id);

-- Bindings made by hand (AUTH-9). Those of MARKETPLACE_APP are not stored: they
-- follow from the account's subscriptions (AUTH-7, AUTH-11).
CREATE TABLE admin_bindings (
    application TEXT NOT NULL REFERENCES admin_applications (id),
    product     TEXT NOT NULL REFERENCES admin_products (id),
    created     BIGINT NOT NULL,
    PRIMARY KEY (application, product)
);

CREATE TABLE admin_api_keys (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL REFERENCES admin_accounts (id),
    hash        TEXT NOT NULL, -- keyed, hexadecimal; "deleted " and the id once deleted
    prefix      TEXT NOT NULL,
    suffix      TEXT NOT NULL,
    description TEXT NOT NULL,
    products    TEXT NOT NULL, -- JSON allow-list; [] means all (KEY-8)
    enabled     BOOLEAN NOT NULL,
    created     BIGINT NOT NULL,
    deleted     BIGINT NOT NULL, -- 0: not; the row stays so that usage by key keeps its name
    UNIQUE (hash)
);
CREATE INDEX admin_api_keys_by_account ON admin_api_keys (account, id);

-- Answers of creations, sealed, kept for a day (ORDER-15).
CREATE TABLE admin_idempotency (
    scope   TEXT NOT NULL,
    key     TEXT NOT NULL,
    input   TEXT NOT NULL, -- keyed hash of operation and input
    answer  TEXT NOT NULL, -- sealed JSON
    created BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);
