-- +goose Up

-- Limits and address lists of what gateways serve (directory.Policy). Nothing
-- here means: the gateway's own settings.
CREATE TABLE admin_policies (
    kind    TEXT NOT NULL, -- product, subscription, application, api_key
    id      TEXT NOT NULL, -- of the thing limited
    policy  TEXT NOT NULL, -- JSON
    updated BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
