-- +goose Up

-- What is measured of an LLM product's calls, and how their parameters are
-- checked, as JSON: {"items":[…],"parameters":"vllm"}.
ALTER TABLE admin_products ADD COLUMN metering TEXT NOT NULL DEFAULT '{}';

-- +goose Down
ALTER TABLE admin_products DROP COLUMN metering;
