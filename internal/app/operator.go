package app

import (
	"os"
	"path/filepath"
	"strings"

	"tollgate/internal/config"
)

// Operator returns the address of the admin API of the program that runs on
// cfg.Data and the operator's token that it left there, or an empty token.
func Operator(cfg config.Config) (base, token string) {
	base = "http://" + reachable(cfg.Admin.Listen)
	if d, err := readDemo(filepath.Join(cfg.Data, demoFile)); err == nil && d.OperatorToken != "" {
		return d.AdminURL, d.OperatorToken
	}
	if text, err := os.ReadFile(filepath.Join(cfg.Data, operatorFile)); err == nil {
		token = strings.TrimSpace(string(text))
	}
	return base, token
}
