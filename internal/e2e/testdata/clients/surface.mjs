// Calls the whole surface with the SDKs its users have: the OpenAI SDK with its
// realtime client, and Anthropic's. Prints one JSON object: for each call what
// the SDK made of it and, where the answer tells, what it was charged.
//
// INPUT: {"calls":{"base_url","api_key","model"},"tokens":{…},"gateway_url","mock_url","https":{"base_url","certificate"}}
import { readFileSync } from 'node:fs';
import OpenAI, { toFile } from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import Anthropic from '@anthropic-ai/sdk';

const input = JSON.parse(process.env.INPUT);
const headers = { 'X-Mock-Tokens': '12,34' };
const messages = [{ role: 'user', content: 'Say something.' }];
const result = {};

let sent; // body of the last request
const client = (p) => new OpenAI({
  baseURL: p.base_url, apiKey: p.api_key, maxRetries: 0,
  fetch: (url, init) => {
    sent = init.body;
    return fetch(url, init);
  },
});
const calls = client(input.calls);
const tokens = client(input.tokens);
const model = input.tokens.model;

// note keeps what a call brought and what it was charged.
async function note(name, promise, tell) {
  const { data, response } = await promise.withResponse();
  result[name] = `${await tell(data)} ${response.headers.get('x-tollgate-charged')}`;
  return data;
}

// --- chat: what the upstream sent arrives byte for byte, and so does what the client sent.
const answer = `{ "id":"chatcmpl-1", "object":"chat.completion","created":1,"model":"${model}",
 "choices":[{"index":0,"message":{"role":"assistant","content":null,"reasoning_content":"\\u4f59\\ud83d\\ude00 {\\"usage\\":{\\"total_tokens\\":9}}",
  "tool_calls":[{"id":"call_1","type":"function","function":{"name":"look_up","arguments":"{\\"city\\": \\"东莞\\"}"}}]},
  "logprobs":{"content":[{"token":"a","logprob":-0.10000000000000000555,"bytes":[97],"top_logprobs":[]}]},"finish_reason":"tool_calls"},
  {"index":1,"message":{"role":"assistant","content":"{\\"temperature\\":21.50}"},"finish_reason":"stop"}],
 "usage":{"prompt_tokens":100,"completion_tokens":23,"total_tokens":123},"x_unknown":1e2 }`;
const asked = {
  model, n: 2, logprobs: true, seed: 7,
  messages: [{ role: 'user', content: [{ type: 'text', text: '看图 \u{1f600}' }, { type: 'image_url', image_url: { url: 'data:image/png;base64,iVBORw0KGgo=' } }] }],
  tools: [{ type: 'function', function: { name: 'look_up', parameters: { type: 'object', properties: { city: { type: 'string' } } } } }],
  response_format: { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema: { type: 'object', properties: { temperature: { type: 'number' } }, required: ['temperature'], additionalProperties: false } } },
};
const exact = { headers: { 'X-Mock-Body': Buffer.from(answer).toString('base64'), 'X-Mock-Record': '1' } };
const raw = await tokens.chat.completions.create(asked, exact).asResponse();
result.answer_bytes = `${(await raw.text()) === answer} ${raw.headers.get('x-tollgate-charged')}`;
const seen = await (await fetch(input.mock_url + '/mock/last')).json();
result.request_bytes = seen.body === sent;
await note('tools', tokens.chat.completions.create(asked, exact), (d) =>
  [JSON.parse(d.choices[0].message.tool_calls[0].function.arguments).city, JSON.parse(d.choices[1].message.content).temperature, d.choices[0].logprobs.content.length].join());

// --- responses
const made = await note('response', tokens.responses.create({ model, input: 'Say something.' }, { headers }), (d) => d.output_text.length > 0);
let deltas = 0;
let completed = 0;
for await (const e of await tokens.responses.create({ model, input: 'Say something.', stream: true }, { headers })) {
  if (e.type === 'response.output_text.delta') deltas++;
  if (e.type === 'response.completed') completed = e.response.usage.total_tokens;
}
result.response_stream = `${deltas} ${completed}`;
await note('response_get', tokens.responses.retrieve(made.id), (d) => d.id === made.id && d.usage.total_tokens);
await note('response_cancel', tokens.responses.cancel(made.id), (d) => d.status);
result.response_delete = (await tokens.responses.delete(made.id).asResponse()).status;
try {
  await tokens.responses.retrieve(made.id);
} catch (e) {
  result.response_gone = e.constructor.name;
}

// --- other makers of answers
await note('embeddings', tokens.embeddings.create({ model, input: ['one', 'two'] }, { headers }), (d) => d.data.length);
await note('images', tokens.images.generate({ model, prompt: 'a cat', n: 2 }, { headers }), (d) => d.data.length);
const picture = () => toFile(Buffer.alloc(300000, 7), 'a.png', { type: 'image/png' });
await note('image_edit', tokens.images.edit({ model, image: await picture(), prompt: 'a hat' }, { headers }), (d) => d.data.length);
await note('moderations', calls.moderations.create({ input: 'x' }), (d) => d.results[0].flagged);
await note('speech', calls.audio.speech.create({ model, voice: 'alloy', input: 'Hello' }), async (r) => Buffer.from(await r.arrayBuffer()).subarray(0, 2).toString('hex'));
const sound = () => toFile(Buffer.alloc(300000, 7), 'a.wav');
await note('transcription', calls.audio.transcriptions.create({ file: await sound(), model, response_format: 'verbose_json' }), (d) => d.duration);
await note('translation', calls.audio.translations.create({ file: await sound(), model }), (d) => d.text);

// --- what is kept upstream
const lines = Buffer.from('{"custom_id":"1"}\n'.repeat(20000));
const file = await note('file', calls.files.create({ file: await toFile(lines, 'a.jsonl'), purpose: 'batch' }), (d) => `${d.filename},${d.bytes === lines.length}`);
await note('file_get', calls.files.retrieve(file.id), (d) => d.id === file.id);
await note('file_content', calls.files.content(file.id), async (r) => Buffer.compare(Buffer.from(await r.arrayBuffer()), lines));
const upload = await note('upload', calls.uploads.create({ filename: 'b', bytes: 6, mime_type: 'text/plain', purpose: 'batch' }), (d) => d.status);
const part = await note('upload_part', calls.uploads.parts.create(upload.id, { data: await toFile(Buffer.from('second'), 'part') }), (d) => d.upload_id === upload.id);
await note('upload_complete', calls.uploads.complete(upload.id, { part_ids: [part.id] }), (d) => d.file.bytes);
const batch = await note('batch', calls.batches.create({ input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' }), (d) => d.status);
await note('batch_cancel', calls.batches.cancel(batch.id), (d) => d.status);
await note('file_delete', calls.files.delete(file.id), (d) => d.deleted);

// --- realtime, which the SDK speaks over TLS only
const secure = new OpenAI({ baseURL: input.https.base_url, apiKey: input.tokens.api_key });
const ca = readFileSync(input.https.certificate);
const talk = () => new Promise((resolve, reject) => {
  const rt = new OpenAIRealtimeWS({ model, options: { headers, ca } }, secure);
  const events = [];
  let answers = 0;
  rt.on('error', reject);
  rt.on('session.created', () => rt.send({ type: 'response.create' }));
  rt.on('event', (e) => {
    if (e.type !== events.at(-1)) events.push(e.type);
    if (e.type !== 'response.done') return;
    if (++answers < 2) rt.send({ type: 'response.create' });
    else rt.close();
  });
  rt.socket.on('close', () => resolve(events.join(' ')));
});
result.realtime = await talk();

// --- Anthropic's SDK
const claude = new Anthropic({ baseURL: input.gateway_url, apiKey: input.tokens.api_key, maxRetries: 0 });
await note('message', claude.messages.create({ model, max_tokens: 50, messages }, { headers }), (d) => `${d.content[0].text.length > 0},${d.usage.input_tokens},${d.usage.output_tokens}`);
const final = await claude.messages.stream({ model, max_tokens: 50, messages }, { headers }).finalMessage();
result.message_stream = `${final.content[0].text.length > 0} ${final.usage.input_tokens} ${final.usage.output_tokens}`;
await note('count_tokens', claude.messages.countTokens({ model, messages }, { headers }), (d) => d.input_tokens);
try {
  await new Anthropic({ baseURL: input.gateway_url, apiKey: 'sk-wrong', maxRetries: 0 }).messages.create({ model, max_tokens: 50, messages });
} catch (e) {
  result.message_bad_key = `${e.constructor.name} ${e.error?.error?.type}`;
}

// --- what a package of tokens cannot price is refused, not free
try {
  await tokens.audio.speech.create({ model, voice: 'alloy', input: 'Hello' });
} catch (e) {
  result.not_priced = e.status;
}
console.log(JSON.stringify(result));
