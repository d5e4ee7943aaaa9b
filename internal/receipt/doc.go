// Package receipt makes and checks signed receipts of calls: what was charged,
// by which rule and basis, to which lots, signed with a key that only the
// account and the marketplace hold. Gateways put them into the header of plain
// answers, the admin API makes the same ones out of usage rows.
//
// A receipt is one line of ASCII, fields parted by semicolons, in this order
// and without spaces (drawn here on several lines):
//
//	v1
//	id=REQUEST            32 hexadecimal digits, the X-Request-Id
//	key=KEY               id of the key that signed
//	sub=SUBSCRIPTION
//	product=PRODUCT
//	at=TIME               when the call was admitted, 2026-11-01T08:30:00.123Z
//	done=TIME             when it was settled
//	status=200
//	counted=1             0: the call was not charged
//	rule=METER-3          empty when nothing was judged
//	basis=upstream        where the units come from
//	units=call:1,token:46 what was measured, in the order of the billing items
//	lots=LOT:token:46     what each lot paid, in the order of payment
//	over=token:4          used beyond every lot
//	sig=SIGNATURE         64 hexadecimal digits
//
// The signature is HMAC-SHA256 over everything before ";sig=", keyed with the
// bytes of the key's text. So it is checked with
//
//	printf %s "${RECEIPT%;sig=*}" | openssl dgst -sha256 -hmac "$KEY"
//
// Ids are letters, digits and "-._" in practice; any other byte of them stands
// as % and two hexadecimal digits. Later versions add fields before sig or
// begin with v2; what is signed is always everything before ";sig=".
package receipt
