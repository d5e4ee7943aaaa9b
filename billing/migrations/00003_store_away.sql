-- +goose Up

-- What gateways do with a package while the quota store is away, as JSON
-- {"policy":"continue","seconds":600,"credit":100}; {} is the default.
ALTER TABLE billing_spec ADD COLUMN store_away TEXT NOT NULL DEFAULT '{}';
ALTER TABLE billing_lot ADD COLUMN store_away TEXT NOT NULL DEFAULT '{}';

-- +goose Down
ALTER TABLE billing_lot DROP COLUMN store_away;
ALTER TABLE billing_spec DROP COLUMN store_away;
