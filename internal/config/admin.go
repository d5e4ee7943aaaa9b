package config

import "time"

// Admin is the control plane's HTTP side.
type Admin struct {
	// Listen address of the admin API, metrics and health. Default
	// 127.0.0.1:8081.
	Listen string `koanf:"listen"`
	// URL is where a gateway of another process finds the admin role; only with
	// role gateway.
	URL string `koanf:"url"`
	// APIKeyLimit is how many API keys an account may have. Default 20 (KEY-4).
	APIKeyLimit int `koanf:"api_key_limit"`
	// ApplicationLimit per account. Default 50.
	ApplicationLimit int `koanf:"application_limit"`
	// AppCodeLimit per application. Default 5.
	AppCodeLimit int `koanf:"app_code_limit"`
	// SecureCookies keeps the console's cookie to https: "on", "off", or "auto",
	// which does so unless the browser came to this very machine (localhost) by
	// plain http. Default auto.
	SecureCookies string `koanf:"secure_cookies"`
	// SessionIdle ends a session of the console that nobody uses. Default 2h.
	SessionIdle time.Duration `koanf:"session_idle"`
	// SessionMax ends every session of the console. Default 24h.
	SessionMax time.Duration `koanf:"session_max"`
	// ConfirmFor is how long an entered password opens what asks for it again,
	// such as showing an AppSecret. Default 5m.
	ConfirmFor time.Duration `koanf:"confirm_for"`
	// SignInTries is how often a name may be tried from one address within
	// SignInWindow: 6 times as often from all addresses together, and one
	// address may try 20 times as often. Default 5.
	SignInTries int64 `koanf:"sign_in_tries"`
	// SignInWindow is how long tries to sign in count, and locks last. Default
	// 15m.
	SignInWindow time.Duration `koanf:"sign_in_window"`
	// Profile opens /debug/pprof on the admin port to whoever reaches it: what
	// the process does and holds, credentials in memory among it. For the time
	// of an investigation only. Default false.
	Profile bool `koanf:"profile"`
}
