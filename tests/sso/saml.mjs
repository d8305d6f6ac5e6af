// An identity provider of SAML for a test: samlify reads the request and signs the response.
//
//   node saml.mjs <settings.json>
//
// Settings: modules, port, issuer, and for each sign-on read anew from the file `response`: key and certificate (PEM files),
// sign (assertion, message, both, nothing), tags (replace what the response would say), attributes. It ends with its
// standard input.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const saml = createRequire(`${settings.modules}/`)("samlify");
// It is told the shape by the template; there is nothing here to check a schema with.
saml.setSchemaValidator({ validate: async () => "skipped" });

const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

const attribute = ([name, values]) =>
  `<saml:Attribute Name="${name}">${values
    .map((value) => `<saml:AttributeValue>${escaped(value)}</saml:AttributeValue>`)
    .join("")}</saml:Attribute>`;

const respond = async (query) => {
  const said = JSON.parse(readFileSync(settings.response, "utf8"));
  const { acs, audience } = said;
  const idp = saml.IdentityProvider({
    entityID: settings.issuer,
    singleSignOnService: [
      { Binding: saml.Constants.namespace.binding.redirect, Location: `http://127.0.0.1:${settings.port}/sso` },
    ],
  });
  const sp = saml.ServiceProvider({
    entityID: audience,
    assertionConsumerService: [{ Binding: saml.Constants.namespace.binding.post, Location: acs }],
  });
  const { extract } = await idp.parseLoginRequest(sp, "redirect", { query });
  const id = () => `_${crypto.randomUUID()}`;
  const at = (seconds) => new Date(Date.now() + seconds * 1000).toISOString();
  const tags = {
    ID: id(),
    AssertionID: id(),
    Destination: acs,
    Audience: audience,
    SubjectRecipient: acs,
    Issuer: settings.issuer,
    IssueInstant: at(0),
    StatusCode: saml.Constants.StatusCode.Success,
    ConditionsNotBefore: at(-10),
    ConditionsNotOnOrAfter: at(60),
    SubjectConfirmationDataNotOnOrAfter: at(60),
    NameIDFormat: "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
    NameID: "grace",
    InResponseTo: extract.request.id,
    ...said.tags,
  };
  const statements =
    `<saml:AuthnStatement AuthnInstant="${at(0)}"><saml:AuthnContext><saml:AuthnContextClassRef>` +
    "urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement>" +
    `<saml:AttributeStatement>${Object.entries(said.attributes).map(attribute).join("")}</saml:AttributeStatement>`;
  const template = saml.SamlLib.defaultLoginResponseTemplate.context
    .replace("{AuthnStatement}{AttributeStatement}", statements)
    .replace("{NameID}", said.name_id ?? "{NameID}");
  let response = saml.SamlLib.replaceTagsByValue(template, tags);
  const sign = (more) => {
    response = saml.SamlLib.constructSAMLSignature({
      rawSamlMessage: response,
      privateKey: readFileSync(said.key, "utf8"),
      signingCert: readFileSync(said.certificate, "utf8").replace(/-----[A-Z ]+-----|\s/g, ""),
      signatureAlgorithm: said.algorithm,
      isBase64Output: false,
      ...more,
    });
  };
  const after = (path) => ({ prefix: "ds", location: { reference: `${path}/*[local-name(.)='Issuer']`, action: "after" } });
  const [whole, part] = ["/*[local-name(.)='Response']", "/*[local-name(.)='Response']/*[local-name(.)='Assertion']"];
  if (["assertion", "both"].includes(said.sign)) sign({ referenceTagXPath: part, signatureConfig: after(part) });
  if (["message", "both"].includes(said.sign)) sign({ isMessageSigned: true, signatureConfig: after(whole) });
  return `<form method="post" action="${acs}"><input name="SAMLResponse" value="${Buffer.from(response).toString("base64")}"/>
    <input name="RelayState" value="${escaped(query.RelayState)}"/></form>`;
};

const server = createServer(async (request, answer) => {
  const url = new URL(request.url, "http://127.0.0.1");
  try {
    answer.end(url.pathname === "/sso" ? await respond(Object.fromEntries(url.searchParams)) : "ready");
  } catch (error) {
    answer.writeHead(500).end(String(error?.stack ?? error));
  }
});

process.stdin.on("end", () => process.exit()).resume();
server.listen(settings.port, "127.0.0.1");
