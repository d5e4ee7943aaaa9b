// Calls an LLM product with the OpenAI SDK for Node.js as its users do, and
// prints what the SDK made of the answers as one JSON object.
//
// INPUT: {"base_url","api_key","model","exhausted":{"base_url","api_key","model"},
//         "dry":{"dry_stream":{…},"dry_responses":{…}}}
import OpenAI from 'openai';

const input = JSON.parse(process.env.INPUT);
const messages = [{ role: 'user', content: 'Say something.' }];
const tokens = { headers: { 'X-Mock-Tokens': '12,34' } };

// client returns an SDK client whose attempts are counted.
function client(product, options = {}) {
  const counted = { attempts: 0 };
  counted.sdk = new OpenAI({
    baseURL: product.base_url,
    apiKey: product.api_key,
    fetch: (url, init) => {
      counted.attempts++;
      return fetch(url, init);
    },
    ...options,
  });
  return counted;
}

// failure returns how the SDK tells of a call that must fail, and how often it
// tried.
async function failure(counted, call) {
  counted.attempts = 0;
  try {
    await call(counted.sdk);
  } catch (e) {
    return {
      name: e.constructor.name,
      status: e.status ?? 0,
      code: e.code ?? '',
      type: e.type ?? '',
      request_id: Boolean(e.requestID),
      attempts: counted.attempts,
    };
  }
  return { name: 'none', status: 200, attempts: counted.attempts };
}

async function chat(sdk, model) {
  const { data, response } = await sdk.chat.completions
    .create({ model, messages }, tokens).withResponse();
  return {
    text: data.choices[0].message.content.length > 0,
    usage: data.usage.total_tokens,
    request_id: Boolean(data._request_id),
    charged: response.headers.get('x-tollgate-charged'),
  };
}

// stream reads a streamed chat completion: how many chunks brought text, how
// many brought usage, and what the last one with usage said.
async function stream(sdk, model, streamOptions) {
  const body = { model, messages, stream: true };
  if (streamOptions) body.stream_options = streamOptions;
  const seen = { chunks: 0, text: 0, without_choices: 0, with_usage: 0, usage: 0, finished: false };
  for await (const chunk of await sdk.chat.completions.create(body, { headers: { 'X-Mock-Tokens': '12,34', 'X-Mock-Chunks': '20' } })) {
    seen.chunks++;
    if (chunk.choices.length === 0) seen.without_choices++;
    if (chunk.choices[0]?.delta?.content) seen.text++;
    if (chunk.choices[0]?.finish_reason) seen.finished = true;
    if (chunk.usage) {
      seen.with_usage++;
      seen.usage = chunk.usage.total_tokens;
    }
  }
  return seen;
}

async function responsesStream(sdk, model) {
  let deltas = 0;
  let completed = 0;
  for await (const event of await sdk.responses.create({ model, input: 'Say something.', stream: true }, tokens)) {
    if (event.type === 'response.output_text.delta') deltas++;
    if (event.type === 'response.completed') completed = event.response.usage.total_tokens;
  }
  return { deltas: deltas > 0, usage: completed };
}

const { sdk } = client(input);
const result = {};
result.chat = await chat(sdk, input.model);
result.stream = await stream(sdk, input.model);
result.stream_usage = await stream(sdk, input.model, { include_usage: true });
result.stream_no_usage = await stream(sdk, input.model, { include_usage: false });

const completion = await sdk.completions.create({ model: input.model, prompt: 'Say' }, tokens);
result.completion = { text: completion.choices[0].text.length > 0, usage: completion.usage.total_tokens };

const embeddings = await sdk.embeddings.create({ model: input.model, input: ['one', 'two'] });
result.embeddings = {
  vectors: embeddings.data.length,
  numbers: embeddings.data.every((d) => d.embedding.length > 0 && d.embedding.every((n) => Number.isFinite(n))),
};

result.models = [];
for await (const model of await sdk.models.list()) result.models.push(model.id);

const response = await sdk.responses.create({ model: input.model, input: 'Say something.' }, tokens);
result.responses = { text: response.output_text.length > 0, usage: response.usage.total_tokens };
result.responses_stream = await responsesStream(sdk, input.model);

const ask = (model, options) => (s) => s.chat.completions.create({ model, messages }, options);
result.bad_key = await failure(client({ ...input, api_key: 'sk-' + 'x'.repeat(48) }), ask(input.model));
result.bad_model = await failure(client(input), ask('no-such-model'));
result.bad_request = await failure(client(input), ask(input.model, { headers: { 'X-Mock-Status': '400' } }));
result.upstream_down = await failure(client(input, { maxRetries: 1 }), ask(input.model, { headers: { 'X-Mock-Status': '503' } }));
result.exhausted = await failure(client(input.exhausted), ask(input.exhausted.model));
result.broken_stream = await failure(client(input, { maxRetries: 0 }), async (s) => {
  const chunks = await s.chat.completions.create({ model: input.model, messages, stream: true }, { headers: { 'X-Mock-Chunks': '20', 'X-Mock-Break': '10' } });
  for await (const _ of chunks);
});

// Streams that outrun their package: what was delivered, then the SDK's error.
for (const [name, ask] of [
  ['dry_stream', (s, model, options) => s.chat.completions.create({ model, messages, stream: true }, options)],
  ['dry_responses', (s, model, options) => s.responses.create({ model, input: 'Say something.', stream: true }, options)],
]) {
  const product = input.dry[name];
  let events = 0;
  result[name] = await failure(client(product), async (s) => {
    for await (const _ of await ask(s, product.model, { headers: { 'X-Mock-Chunks': '2000', 'X-Mock-Chunk-Delay': '1ms' } })) events++;
  });
  result[name].events = events;
}

console.log(JSON.stringify(result));
