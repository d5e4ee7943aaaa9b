// Package notify is the message centre: it turns what happened into messages
// for an account's inbox and into deliveries by mail, text message, voice call
// and webhook (MSG-*).
//
// What holds:
//
//   - A message is written in the transaction of what it tells, once per dedup
//     key (MSG-5): it is there exactly when that happened. It is a snapshot: its
//     texts are made then, and sending reads no later state.
//   - Each channel of each receiver gets one delivery. A delivery is sent at
//     least once, by one process at a time, with every attempt kept: when, with
//     which code or error, and how long it took. Repetitions carry the same
//     Message-ID, webhook-id or request id, so that whoever gets one twice can
//     tell.
//   - What a receiver chose is kept, except that a required category cannot be
//     switched off (people's section 4). Voice is off until somebody switches
//     it on (MSG-3).
//   - Messages of one category to one receiver that come close together, or that
//     wait for the daily digest, leave as one mail with all of them in it.
//
// The senders are ports: SMTP in notify/smtp, signed requests to the operator's
// text and voice provider and to buyers' endpoints in notify/webhook. A channel
// without a sender keeps its deliveries as "unsent", which the log shows
// (MSG-6).
package notify
