// Package webhook sends messages as signed HTTP requests, after Standard
// Webhooks 1.0.0: to buyers' own endpoints, and to the operator's provider of
// text messages and voice calls.
package webhook
