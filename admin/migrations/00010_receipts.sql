-- +goose Up

-- Keys that sign the receipts of an account (internal/receipt). Of each account
-- at most one is current; earlier ones are kept to check what they signed, until
-- they are deleted.
CREATE TABLE admin_receipt_keys (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    secret  TEXT NOT NULL,    -- sealed
    header  BOOLEAN NOT NULL, -- gateways put receipts into the header of plain answers
    created BIGINT NOT NULL,
    retired BIGINT NOT NULL   -- when a later one took its place; 0: it is current
);
CREATE UNIQUE INDEX admin_receipt_keys_current ON admin_receipt_keys (account) WHERE retired = 0;
CREATE INDEX admin_receipt_keys_account ON admin_receipt_keys (account, id);
