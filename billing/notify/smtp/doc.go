// Package smtp sends mail for the message centre through one SMTP server.
package smtp
