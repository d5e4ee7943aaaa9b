package sqldb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// connectTimeout bounds the opening of one connection where the URL sets no
// connect_timeout of its own.
const connectTimeout = 5 * time.Second

// minPostgres is the oldest server version that is tested.
const minPostgres = 15

func openPostgres(ctx context.Context, o Options) (*DB, error) {
	cfg, err := pgx.ParseConfig(o.URL)
	if err != nil {
		// The parser's own text may quote parts of the address, the password
		// among them, when it cannot tell them apart.
		return nil, errors.New("the PostgreSQL address cannot be read: write TOLLGATE_SQL_STORE as postgres://user:password@host:5432/database, with special characters of the password percent-encoded")
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "tollgate"
	}
	// Instants are stored as milliseconds; UTC keeps now() and logs comparable.
	cfg.RuntimeParams["timezone"] = "UTC"
	where := postgresAddress(cfg)
	pool := stdlib.OpenDB(*cfg)
	pool.SetMaxOpenConns(o.MaxConns)
	pool.SetMaxIdleConns(o.MaxConns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	var version int
	var readOnly bool
	err = pool.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int / 10000, pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool").Scan(&version, &readOnly)
	switch {
	case err != nil:
		err = explainPostgres(cfg, where, err)
	case version < minPostgres:
		err = fmt.Errorf("PostgreSQL at %s is version %d: use %d or newer", where, version, minPostgres)
	case readOnly:
		err = fmt.Errorf("PostgreSQL at %s is read-only: point TOLLGATE_SQL_STORE at the primary server", where)
	default:
		return &DB{sql: pool, engine: Postgres, where: where, log: o.Logger, maxConns: o.MaxConns}, nil
	}
	pool.Close()
	return nil, err
}

// postgresAddress prints where cfg points to, without the password.
func postgresAddress(cfg *pgx.ConnConfig) string {
	if strings.HasPrefix(cfg.Host, "/") {
		return fmt.Sprintf("%s (database %s)", cfg.Host, cfg.Database)
	}
	return fmt.Sprintf("%s/%s", net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port)), cfg.Database)
}

// explainPostgres turns the error of a first connection into one that names
// the remedy.
func explainPostgres(cfg *pgx.ConnConfig, where string, err error) error {
	switch code := sqlState(err); {
	case code == "28P01" || code == "28000":
		return fmt.Errorf("PostgreSQL at %s refuses user %q: correct the user and password in TOLLGATE_SQL_STORE or the server's pg_hba.conf (%s)", where, cfg.User, code)
	case code == "3D000":
		return fmt.Errorf("PostgreSQL at %s has no database %q: create it (createdb -O %s %s) or correct TOLLGATE_SQL_STORE", where, cfg.Database, cfg.User, cfg.Database)
	case code == "42501":
		return fmt.Errorf("PostgreSQL at %s does not let user %q connect: GRANT CONNECT, CREATE ON DATABASE %s TO %s", where, cfg.User, cfg.Database, cfg.User)
	case code == "53300":
		return fmt.Errorf("PostgreSQL at %s has no free connection: raise max_connections or lower the pool size", where)
	case code == "57P03":
		return fmt.Errorf("PostgreSQL at %s is starting or stopping: try again in a moment", where)
	case code != "":
		return fmt.Errorf("PostgreSQL at %s: %w", where, err)
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("PostgreSQL host %q is not known: correct TOLLGATE_SQL_STORE", dns.Name)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), pgconn.Timeout(err):
		return fmt.Errorf("PostgreSQL at %s did not answer in time: check the address in TOLLGATE_SQL_STORE and the firewall between", where)
	case errors.As(err, new(*net.OpError)):
		return fmt.Errorf("no PostgreSQL answers at %s: start the server or correct TOLLGATE_SQL_STORE", where)
	default:
		return fmt.Errorf("connect to PostgreSQL at %s: %w", where, err)
	}
}
