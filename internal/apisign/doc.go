// Package apisign makes and checks the app signature SDK-HMAC-SHA256
// (gateway-wire section 1).
//
// What is signed:
//
//	CanonicalRequest = METHOD "\n" CanonicalURI "\n" CanonicalQuery "\n"
//	                   { name ":" value "\n" } "\n"
//	                   SignedHeaders "\n" hex(SHA256(body))
//	StringToSign     = "SDK-HMAC-SHA256\n" X-Sdk-Date "\n" hex(SHA256(CanonicalRequest))
//	Signature        = hex(HMAC-SHA256(AppSecret, StringToSign))
//	Authorization: SDK-HMAC-SHA256 Access=AppKey, SignedHeaders=a;b;c, Signature=64hex
//
// The header list is the client's own. x-sdk-date is the only header that has
// to be on it; each header that is on it has to be there.
//
// # Readings accepted
//
// Clients differ in two places and the verifier accepts either reading: the
// path decoded and encoded again, or its escapes taken as text (and the mixture
// the vendor's npm signer makes of a path with Chinese characters and blanks);
// a "+" in the query as itself, or as a blank. Trying another reading costs
// something only when the first did not match and the request holds a "%" or
// a "+" at all.
//
// # What the caller has to do
//
// The signature covers the canonical request, not the bytes of the request
// line: "/a", "/a/" and "/%61" share one signature, and so do "/a%2Fb" and
// "/a/b". A gateway therefore
//
//   - hands over the path as it stood on the request line (fasthttp:
//     URI().PathOriginal(), never URI().Path(), which folds "//" and ".."), and
//     forwards that same path;
//   - calls [CheckPath] first: with dot segments and broken escapes refused,
//     the path that was routed is the path the upstream will act upon;
//   - routes by the decoded path and nothing the signature does not fix, and
//     decides binding and subscription by the route, not by the signature;
//   - refuses more than one Authorization field ([Verifier.FromHeaders] does);
//   - keys its replay cache, where a product asks for one, by
//     [Parsed.Signature], the decoded bytes: the hexadecimal digits may change
//     case on the way.
//
// Headers that are not on the client's list are not protected; a product that
// relies on one has to say so in its documents.
package apisign
