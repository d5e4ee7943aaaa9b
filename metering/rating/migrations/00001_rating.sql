-- +goose Up

-- What each subscription used beyond its packages, hour by hour (PKG-28). Rows
-- are added and never changed, but for the mark of who took them: an hour that
-- turns out otherwise gets a further row with the difference.
CREATE TABLE rating_bucket (
    hour         BIGINT NOT NULL, -- Unix ms of its beginning
    subscription TEXT NOT NULL,
    unit         TEXT NOT NULL,
    seq          BIGINT NOT NULL, -- 0, and 1, 2, … for adjustments
    account      TEXT NOT NULL,
    product      TEXT NOT NULL,
    quantity     BIGINT NOT NULL,
    sealed       BIGINT NOT NULL,
    taken        BIGINT NOT NULL, -- 0: not yet
    PRIMARY KEY (subscription, hour, unit, seq)
);
CREATE INDEX rating_bucket_waiting ON rating_bucket (hour, subscription, unit, seq) WHERE taken = 0;
CREATE INDEX rating_bucket_hour ON rating_bucket (hour);

-- The hours that are sealed.
CREATE TABLE rating_hour (
    hour   BIGINT PRIMARY KEY,
    sealed BIGINT NOT NULL,
    as_of  BIGINT NOT NULL -- settlement of the newest call the usage store had
);
