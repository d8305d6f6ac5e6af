// An identity provider of its own for a test: the certified oidc-provider, with keys that are new at each start.
//
//   node provider.mjs <settings.json>
//
// Settings: modules (where npm put its packages), port, client_id, client_secret, redirect_uri, people (a file, read at each
// sign-on: { login: { email, name, groups } }). It ends with its standard input, and so with the test that started it.

import { createPrivateKey, generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { Provider } = await import(pathToFileURL(`${settings.modules}/oidc-provider/lib/index.js`));

// By way of PEM: Node 20 waits for ever when it collects garbage while it exports, as JWK, a key that it made itself.
const key = () => {
  const { privateKey } = generateKeyPairSync("rsa", {
    modulusLength: 2048,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
  return { ...createPrivateKey(privateKey).export({ format: "jwk" }), alg: "RS256", use: "sig" };
};

const issuer = `http://127.0.0.1:${settings.port}`;
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: settings.client_id,
      client_secret: settings.client_secret,
      redirect_uris: [settings.redirect_uri],
      response_types: ["code"],
      grant_types: ["authorization_code"],
    },
  ],
  claims: { email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
  cookies: { keys: ["a test's"] },
  jwks: { keys: [key()] },
  findAccount: (_, login) => {
    const person = JSON.parse(readFileSync(settings.people, "utf8"))[login];
    return person && { accountId: login, claims: () => ({ sub: login, email_verified: true, ...person }) };
  },
});

process.stdin.on("end", () => process.exit()).resume();
provider.listen(settings.port, "127.0.0.1");
