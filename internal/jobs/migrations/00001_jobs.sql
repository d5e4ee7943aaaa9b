-- +goose Up

CREATE TABLE jobs_job (
    name        TEXT    NOT NULL PRIMARY KEY,
    cursor_ms   BIGINT  NOT NULL, -- last due instant that is done, business clock
    owner       TEXT    NOT NULL, -- process that holds the lease, or ''
    lease_ms    BIGINT  NOT NULL, -- its end, wall clock
    fence       BIGINT  NOT NULL, -- raised with each change of owner
    paused      BOOLEAN NOT NULL, -- by an operator
    runs        BIGINT  NOT NULL,
    failures    BIGINT  NOT NULL, -- in a row
    retry_ms    BIGINT  NOT NULL, -- not before, wall clock
    last_error  TEXT    NOT NULL,
    started_ms  BIGINT  NOT NULL, -- of the last run, wall clock; 0: never
    finished_ms BIGINT  NOT NULL  -- of the last run that ended well
);

-- +goose Down
DROP TABLE jobs_job;
