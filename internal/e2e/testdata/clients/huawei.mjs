// Calls an API product with the vendor's SDK for Node.js: its high-level
// client builds, signs and sends the requests. Prints what came back as JSON.
//
// INPUT: {"url","app_key","app_secret"}
import core from '@huaweicloud/huaweicloud-sdk-core';
import builder from '@huaweicloud/huaweicloud-sdk-core/ClientBuilder.js';

const input = JSON.parse(process.env.INPUT);
const endpoint = new URL(input.url).origin;
const path = new URL(input.url).pathname;

function client(secret) {
  const credential = new core.BasicCredentials().withAk(input.app_key).withSk(secret).withProjectId('tollgate');
  return new builder.ClientBuilder((c) => c).withCredential(credential).withEndpoint(endpoint).build();
}

async function call(c, options) {
  try {
    const answer = await c.sendRequest({ pathParams: {}, headers: {}, queryParams: {}, ...options });
    return { status: answer.httpStatusCode, code: '' };
  } catch (e) {
    return { status: e.httpStatusCode ?? 0, code: e.errorCode ?? '', message: e.errorMsg ?? String(e) };
  }
}

const good = client(input.app_secret);
console.log(JSON.stringify({
  get: await call(good, { url: path, method: 'GET' }),
  query: await call(good, { url: path + '/any/thing', method: 'GET', queryParams: { b: '2', a: ['1', '0'], F: 'x', sp: 'a b', zh: '中文', empty: '' } }),
  post: await call(good, { url: path + '/any', method: 'POST', contentType: 'application/json', data: { city: '东莞', days: 3 } }),
  wrong_secret: await call(client('not-the-secret'), { url: path, method: 'GET' }),
}));
