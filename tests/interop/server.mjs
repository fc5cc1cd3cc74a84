// An OpenID provider for the tests: a certified implementation, strict rotation, and every login consents at once.
//
//   node server.mjs DIRECTORY    where DIRECTORY/node_modules holds what package-lock.json names
//
// Prints one line of JSON when it is ready and ends when its standard input does, so that a killed test run leaves
// no server behind. Paths under /test/ are the tests' view behind the scenes.

import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const modules = pathToFileURL(`${process.argv[2]}/node_modules/`);
const { default: Provider } = await import(new URL('oidc-provider/lib/index.js', modules));
const { createMemoryAdapter } = await import(new URL('oidc-provider/lib/adapters/memory_adapter.js', modules));

const SCOPE = 'openid offline_access';
const ACCESS_TOKEN_SECONDS = 60;
const LONGER_THAN_THE_TESTS_SECONDS = 3600;

const server = createServer();
server.keepAliveTimeout = 0; // never: a connection closed just as it is used again would look like a lost reply
await once(server.listen(0, '127.0.0.1'), 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

const clients = [
  {
    token_endpoint_auth_method: 'client_secret_basic',
    client_id: 'urn:app:basic', // reserved characters in both, which only a form-encoded header carries safely
    client_secret: 's3cret:/+ %&=',
  },
  { token_endpoint_auth_method: 'client_secret_post', client_id: 'post', client_secret: 's3cret:/+ %&=' },
  { token_endpoint_auth_method: 'none', client_id: 'public' },
];

const provider = new Provider(issuer, {
  adapter: createMemoryAdapter(),
  clients: clients.map((client) => ({ ...client, redirect_uris: [`${issuer}/test/callback`] })),
  clientDefaults: {
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    id_token_signed_response_alg: 'ES256',
  },
  cookies: { keys: ['a key for the cookies of the tests'] },
  features: { devInteractions: { enabled: false } },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  jwks: { keys: [generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' })] },
  pkce: { required: () => true },
  rotateRefreshToken: true, // and a refresh token used twice revokes the grant, as the provider always does
  ttl: {
    AccessToken: ACCESS_TOKEN_SECONDS,
    AuthorizationCode: ACCESS_TOKEN_SECONDS,
    Grant: LONGER_THAN_THE_TESTS_SECONDS,
    IdToken: LONGER_THAN_THE_TESTS_SECONDS,
    Interaction: LONGER_THAN_THE_TESTS_SECONDS,
    RefreshToken: LONGER_THAN_THE_TESTS_SECONDS,
    Session: LONGER_THAN_THE_TESTS_SECONDS,
  },
});

// What happened, for the tests to ask about.

let discoveries = 0;
const accounts = {}; // by account: how its refresh requests ended
const owners = new Map(); // refresh token to account, because a revoked one no longer tells whose it was
const gates = new Map(); // account to the gate that holds its token replies

function accountOf(id) {
  return (accounts[id] ??= { refreshed: 0, refused: 0, grants_revoked: 0 });
}

provider.on('refresh_token.saved', (token) => owners.set(token.jti, token.accountId));
provider.on('grant.revoked', (ctx) => {
  accountOf(ctx.oidc.entities.Account.accountId).grants_revoked += 1;
});
provider.on('server_error', (ctx, error) => console.error(error));

async function observe(ctx) {
  if (ctx.oidc?.route === 'discovery') {
    discoveries += 1;
  }
  if (ctx.oidc?.route !== 'token' || ctx.oidc.params?.grant_type !== 'refresh_token') {
    return;
  }
  const account = owners.get(ctx.oidc.params.refresh_token) ?? 'unknown';
  accountOf(account)[ctx.status === 200 ? 'refreshed' : 'refused'] += 1;
  // The provider has acted and the old refresh token is spent; only the reply is still to come.
  const gate = gates.get(account);
  gate?.reached.resolve();
  await gate?.opened.promise;
}

// The person at the browser: logs in as `login_hint` says and agrees to everything.

async function consent(ctx) {
  const { params } = await provider.interactionDetails(ctx.req, ctx.res);
  const grant = new provider.Grant({ accountId: params.login_hint, clientId: params.client_id });
  grant.addOIDCScope(SCOPE);
  const result = { login: { accountId: params.login_hint }, consent: { grantId: await grant.save() } };
  ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result));
}

const behindTheScenes = {
  '/test/callback': () => ({}),
  '/test/stats': () => ({ discoveries, accounts }),
  '/test/hold': ({ account }) => {
    gates.set(account, { reached: Promise.withResolvers(), opened: Promise.withResolvers() });
    return {};
  },
  '/test/until-held': async ({ account }) => {
    await gates.get(account).reached.promise;
    return {};
  },
  '/test/release': ({ account }) => {
    gates.get(account).opened.resolve();
    gates.delete(account);
    return {};
  },
  // Not RFC 7009: there, revoking an access token takes the refresh token with it.
  '/test/revoke-access-token': async ({ token }) => {
    await (await provider.AccessToken.find(token)).destroy();
    return {};
  },
};

provider.use(async (ctx, next) => {
  if (ctx.path.startsWith('/interaction/')) {
    await consent(ctx);
  } else if (ctx.path in behindTheScenes) {
    ctx.body = await behindTheScenes[ctx.path](ctx.query);
  } else {
    await next();
    await observe(ctx);
  }
});

server.on('request', provider.callback());
process.stdin.on('end', () => process.exit()).resume();
console.log(JSON.stringify({ issuer, scope: SCOPE, clients }));
