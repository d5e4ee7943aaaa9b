package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Options are what the address cannot say.
type Options struct {
	// Now is a clock to be used in place of the server's, for tests that move
	// it. Every client of a server must then use the same one.
	Now func() time.Time
	// Run is the identity of the server, for tests that roll a server back;
	// default: what the server says.
	Run func() string
}

// settings are the parameters of the address that are ours.
type settings struct {
	wait        int
	waitTimeout time.Duration
	prefix      string
}

// Open connects to the Redis at address and checks that it answers.
func Open(ctx context.Context, address string, opt Options) (*Store, error) {
	client, set, err := connect(address)
	if err != nil {
		return nil, err
	}
	if err := client.Ping(ctx).Err(); err != nil {
		client.Close()
		return nil, fmt.Errorf("quota: redis at %s does not answer: check the address, the password and that it runs: %w", redact(address), err)
	}
	return &Store{client: client, set: set, opt: opt}, nil
}

// Client returns a client for the Redis at address, which the caller closes, and
// the prefix of its keys: for what else the nodes of a cluster share.
func Client(address string) (client goredis.UniversalClient, prefix string, err error) {
	client, set, err := connect(address)
	return client, set.prefix, err
}

// redact hides the password of an address.
func redact(address string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if i := strings.LastIndexByte(rest, '@'); ok && i >= 0 {
		return scheme + "://***@" + rest[i+1:]
	}
	return address
}

var errAddress = errors.New("use redis://host:port, redis+sentinel://host:port?master_name=NAME or redis+cluster://host:port")

// connect makes the client that an address names.
func connect(address string) (goredis.UniversalClient, settings, error) {
	set := settings{waitTimeout: 100 * time.Millisecond, prefix: "tollgate:"}
	fault := func(err error) (goredis.UniversalClient, settings, error) {
		return nil, set, fmt.Errorf("quota: redis address %s: %w", redact(address), err)
	}
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		return fault(errAddress)
	}
	base, kind, _ := strings.Cut(scheme, "+")
	if base != "redis" && base != "rediss" || kind != "" && kind != "sentinel" && kind != "cluster" {
		return fault(errAddress)
	}
	plain, err := normalise(base+"://"+rest, &set)
	if err != nil {
		return fault(err)
	}
	switch kind {
	case "cluster":
		o, err := goredis.ParseClusterURL(plain)
		if err != nil {
			return fault(err)
		}
		o.ContextTimeoutEnabled = true
		o.DialerRetries = max(o.DialerRetries, dialTries)
		return goredis.NewClusterClient(o), set, nil
	case "sentinel":
		o, err := goredis.ParseFailoverURL(plain)
		if err != nil {
			return fault(err)
		}
		if o.MasterName == "" {
			return fault(errors.New("the name of the master is missing: add ?master_name=NAME"))
		}
		o.ContextTimeoutEnabled = true
		o.DialerRetries = max(o.DialerRetries, dialTries)
		return goredis.NewFailoverClient(o), set, nil
	}
	o, err := goredis.ParseURL(plain)
	if err != nil {
		return fault(err)
	}
	o.ContextTimeoutEnabled = true
	o.DialerRetries = max(o.DialerRetries, dialTries)
	return goredis.NewClient(o), set, nil
}

// dialTries is how often one command tries to reach a server that refuses the
// connection, where the address does not say (dialer_retries). Once: the
// engine's breaker times the next try, and until two reports have failed a call
// may wait for one. The client's own default waits half a second each time.
const dialTries = 1

// normalise takes our parameters out of an address and turns a list of hosts
// into the form go-redis reads.
func normalise(address string, set *settings) (string, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	rest, query, _ := strings.Cut(rest, "?")
	rest, path, hasPath := strings.Cut(rest, "/")
	user := ""
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, rest = rest[:i+1], rest[i+1:]
	}
	hosts := strings.Split(rest, ",")
	q, err := url.ParseQuery(query)
	if err != nil {
		return "", err
	}
	q["addr"] = append(hosts[1:], q["addr"]...)
	if len(q["addr"]) == 0 {
		q.Del("addr")
	}
	if v := q.Get("wait"); v != "" {
		if set.wait, err = strconv.Atoi(v); err != nil || set.wait < 0 {
			return "", fmt.Errorf("wait=%q is not a number of replicas", v)
		}
	}
	if v := q.Get("wait_timeout"); v != "" {
		if set.waitTimeout, err = time.ParseDuration(v); err != nil || set.waitTimeout < time.Millisecond {
			return "", fmt.Errorf("wait_timeout=%q is not a duration of at least 1ms", v)
		}
	}
	if v := q.Get("prefix"); v != "" {
		if strings.ContainsAny(v, "{}") {
			return "", fmt.Errorf("prefix=%q contains braces, which are the hash tag's", v)
		}
		set.prefix = v
	}
	for _, ours := range []string{"wait", "wait_timeout", "prefix"} {
		q.Del(ours)
	}
	address = scheme + "://" + user + hosts[0]
	if hasPath {
		address += "/" + path
	}
	if len(q) > 0 {
		address += "?" + q.Encode()
	}
	return address, nil
}
