package tollgate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Demo is what `serve --demo` writes to demo.json: where the marketplace
// answers and what a client needs to call its three products.
type Demo struct {
	GatewayURL      string `json:"gateway_url"`
	GatewayHTTPSURL string `json:"gateway_https_url"`
	AdminURL        string `json:"admin_url"`
	MockUpstreamURL string `json:"mock_upstream_url"`

	OperatorToken string `json:"operator_token"`
	BuyerToken    string `json:"buyer_token"`
	SellerToken   string `json:"seller_token"`

	LLM       LLM `json:"llm"`        // packages of calls
	LLMTokens LLM `json:"llm_tokens"` // packages of tokens
	API       API `json:"api"`

	ConsoleURL    string `json:"console_url"`
	OperatorLogin Login  `json:"operator_login"`
	BuyerLogin    Login  `json:"buyer_login"`
	SellerLogin   Login  `json:"seller_login"`
}

// Login signs somebody in to the console.
type Login struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// LLM is an LLM product of the demo.
type LLM struct {
	BaseURL        string `json:"base_url"`
	APIKey         string `json:"api_key"`
	Model          string `json:"model"`
	SubscriptionID string `json:"subscription_id"`
	Unit           string `json:"unit"`
}

// API is the API product of the demo.
type API struct {
	URL            string `json:"url"`
	HTTPSURL       string `json:"https_url"`
	AppKey         string `json:"app_key"`
	AppSecret      string `json:"app_secret"`
	AppCode        string `json:"app_code"`
	SubscriptionID string `json:"subscription_id"`
}

// demoFile is where a node with data folder dir writes its Demo.
func demoFile(dir string) string { return filepath.Join(dir, "demo.json") }

// readDemo reads a demo.json.
func readDemo(path string) (Demo, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Demo{}, fmt.Errorf("demo.json: %w", err)
	}
	var d Demo
	if err := json.Unmarshal(data, &d); err != nil {
		return Demo{}, fmt.Errorf("demo.json: %w", err)
	}
	return d, nil
}
