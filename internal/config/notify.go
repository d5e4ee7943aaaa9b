package config

import "time"

// Notify is how messages leave the message centre. A channel that is not set
// keeps its messages in the delivery log as unsent; the inbox always works.
type Notify struct {
	// SMTP server for mail: smtp://user:password@host:587 (STARTTLS required),
	// smtps://host:465, smtp+plain://host:25 without TLS, or file:PATH of a file
	// that holds one of these. Default: no mail.
	SMTP Secret `koanf:"smtp"`
	// From is the sender of mails: Tollgate <notices@example.com>. Needed with
	// smtp.
	From string `koanf:"from"`
	// SMSURL and VoiceURL are where the provider of text messages and voice
	// calls takes a signed POST of {"id","channel","to","language","text"}.
	// Default: none.
	SMSURL   string `koanf:"sms_url"`
	VoiceURL string `koanf:"voice_url"`
	// ProviderSecret signs those requests: whsec_ and base64 of 24 to 64 bytes,
	// or file:PATH. Needed with sms_url and voice_url.
	ProviderSecret Secret `koanf:"provider_secret"`
	// PrivateWebhooks lets buyers' webhook endpoints have private and loopback
	// addresses: for installations inside one network. Default false.
	PrivateWebhooks bool `koanf:"private_webhooks"`
	// ConsoleURL begins the links in messages: https://console.example. Default:
	// links are paths.
	ConsoleURL string `koanf:"console_url"`
	// GroupWait is how long a mail waits for others of its category to the same
	// receiver, to leave as one. Default 5s; a notice is as much later.
	GroupWait time.Duration `koanf:"group_wait"`
}

func (n *Notify) validate(faults *faults) {
	if n.SMTP.value != "" && n.From == "" {
		faults.add("notify.from", "is missing: give the sender of mails as Name <name@example.com>")
	}
	if (n.SMSURL != "" || n.VoiceURL != "") && n.ProviderSecret.value == "" {
		faults.add("notify.provider_secret", "is missing: give whsec_ and base64 of at least 24 bytes, which signs the requests to your provider")
	}
	if n.GroupWait < 0 {
		faults.add("notify.group_wait", "must not be below 0")
	}
}
