-- +goose Up

-- People who sign in. Those of an account are its owners and its sub-users; an
-- operator belongs to none.
CREATE TABLE admin_users (
    id        TEXT PRIMARY KEY,
    account   TEXT NOT NULL,        -- '' for an operator
    name      TEXT NOT NULL UNIQUE, -- what is typed to sign in, in lower case
    owner     BOOLEAN NOT NULL,     -- may do all that the account may
    password  TEXT NOT NULL,        -- argon2id, in PHC form
    policies  TEXT NOT NULL,        -- of a sub-user, JSON
    totp      TEXT NOT NULL,        -- sealed secret; '' without
    totp_step BIGINT NOT NULL,      -- the last step whose code was used: none is taken twice
    disabled  BOOLEAN NOT NULL,
    created   BIGINT NOT NULL
);
CREATE INDEX admin_users_account ON admin_users (account, id);

-- Browsers that are signed in.
CREATE TABLE admin_sessions (
    id        TEXT PRIMARY KEY,
    hash      TEXT NOT NULL UNIQUE, -- keyed hash of the cookie
    usr       TEXT NOT NULL,
    created   BIGINT NOT NULL,
    seen      BIGINT NOT NULL,
    confirmed BIGINT NOT NULL,      -- when the password was last entered
    address   TEXT NOT NULL,
    agent     TEXT NOT NULL
);
CREATE INDEX admin_sessions_usr ON admin_sessions (usr, id);

-- Tries to sign in, by keyed hash of a name, an address, or both. A row lives
-- for one window.
CREATE TABLE admin_sign_ins (
    key   TEXT PRIMARY KEY,
    tries BIGINT NOT NULL,
    since BIGINT NOT NULL
);
