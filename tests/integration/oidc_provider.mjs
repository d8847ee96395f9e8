// A real OpenID Connect provider for tests/integration/test_oidc.py: node oidc_provider.mjs CONFIG
//
// CONFIG is JSON: library (path of oidc-provider's entry), issuer, port, key and certificate (PEM
// files; without them plain HTTP), clients (as the library wants them), people (login -> claims),
// claimsInToken, algorithm. It prints one line once it listens.
import { readFileSync } from 'node:fs';
import * as crypto from 'node:crypto';
import * as http from 'node:http';
import * as https from 'node:https';
import { pathToFileURL } from 'node:url';

const config = JSON.parse(process.argv[2]);
const { Provider } = await import(pathToFileURL(config.library).href);

function freshKey(algorithm) {
  const pair = algorithm === 'ES256'
    ? crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })
    : crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
  const jwk = pair.privateKey.export({ format: 'jwk' });
  return { ...jwk, kid: crypto.randomUUID(), use: 'sig', alg: algorithm };
}

const provider = new Provider(config.issuer, {
  clients: config.clients,
  jwks: { keys: [freshKey('RS256'), freshKey('ES256')] },
  cookies: { keys: [crypto.randomUUID()] },
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'groups'],
  },
  conformIdTokenClaims: !config.claimsInToken,
  features: { devInteractions: { enabled: true } },
  async findAccount(_context, login) {
    const claims = config.people[login];
    if (claims === undefined) return undefined;
    return { accountId: login, claims: () => ({ sub: login, ...claims }) };
  },
});

const server = config.key === undefined
  ? http.createServer(provider.callback())
  : https.createServer(
    { key: readFileSync(config.key), cert: readFileSync(config.certificate) },
    provider.callback(),
  );
server.listen(config.port, '127.0.0.1', () => console.log('listening'));
