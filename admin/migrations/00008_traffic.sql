-- +goose Up

-- How a product's calls are spread over its upstreams, bounded and tried again:
-- directory.Traffic as JSON.
ALTER TABLE admin_products ADD COLUMN traffic TEXT NOT NULL DEFAULT '{}';

-- What an upstream has beyond address, weight and headers: its own names of the
-- models, and TLS. JSON.
ALTER TABLE admin_upstreams ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
