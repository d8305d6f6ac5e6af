//! Responses of SAML 2.0, read only as far as they are signed.
//!
//! The document must have one assertion, in its place, and signatures only where one may stand: as a child of what it signs.
//! Whatever else is wrapped around, beside or inside is refused before a key is tried, and what is read afterwards is read from
//! the very element that the signature was checked on (see what is signed). Keys are the configured certificates', never the
//! document's.

use crate::sso::person::Vouched;
use bergshamra_dsig::DsigContext;
use bergshamra_dsig::verify::{VerifyResult, verify_all_document_with_source};
use bergshamra_keys::KeysManager;
use bergshamra_keys::loader::load_x509_cert_pem;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uppsala::{Document, NodeId, NodeKind, Parser};

const ASSERTION: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const PROTOCOL: &str = "urn:oasis:names:tc:SAML:2.0:protocol";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const SUCCESS: &str = "urn:oasis:names:tc:SAML:2.0:status:Success";
const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";
const TRANSIENT: &str = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient";
const EMAIL_FORMAT: &str = "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress";

const CANONICAL: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
/// RSA and ECDSA with SHA-2; SHA-1 no longer proves anything.
const SIGNATURES: &[&str] = &[
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha384",
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512",
    "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256",
    "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384",
    "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512",
];
const DIGESTS: &[&str] = &[
    "http://www.w3.org/2001/04/xmlenc#sha256",
    "http://www.w3.org/2001/04/xmldsig-more#sha384",
    "http://www.w3.org/2001/04/xmlenc#sha512",
];

/// Attributes that hold an address, and a name, at the common providers.
const EMAIL_ATTRIBUTES: &[&str] = &[
    "email",
    "mail",
    "urn:oid:0.9.2342.19200300.100.1.3",
    "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress",
];
const NAME_ATTRIBUTES: &[&str] = &[
    "name",
    "displayName",
    "urn:oid:2.16.840.1.113730.3.1.241",
    "http://schemas.microsoft.com/identity/claims/displayname",
];

const DEPTH_MAX: u32 = 64;
const SUBJECT_LENGTH_MAX: usize = 255;
const GROUPS_MAX: usize = 2_000;
/// How far a provider's clock may be from ours.
const CLOCK_SKEW: Duration = Duration::seconds(60);

/// What a response must say.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    /// Our entity id.
    pub(super) audience: &'a str,
    /// Where it is to be sent.
    pub(super) recipient: &'a str,
    /// The id of our request.
    pub(super) request: &'a str,
    /// In PEM.
    pub(super) certificates: &'a [String],
    pub(super) groups_attribute: &'a str,
    pub(super) now: OffsetDateTime,
}

/// An assertion that is to be believed.
#[derive(Debug)]
pub(super) struct Proved {
    pub(super) assertion: String,
    /// Until when it would be taken again.
    pub(super) until: OffsetDateTime,
    pub(super) vouched: Vouched,
}

/// Why a response is not believed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The provider refused.
    Denied,
    /// It is not what it must be.
    Wrong(&'static str),
}

type Checked<T> = Result<T, Problem>;

const fn wrong<T>(what: &'static str) -> Checked<T> {
    Err(Problem::Wrong(what))
}

fn ensure(holds: bool, what: &'static str) -> Checked<()> {
    if holds { Ok(()) } else { wrong(what) }
}

/// True for a certificate that signatures can be checked with.
pub(in crate::sso) fn is_certificate(pem: &str) -> bool {
    load_x509_cert_pem(pem.as_bytes()).is_ok()
}

/// What a response proves.
pub(super) fn read(xml: &str, expected: &Expected<'_>) -> Checked<Proved> {
    let parser = Parser::new().with_forbid_dtd(true).with_forbid_entities(true).with_max_depth(DEPTH_MAX);
    let Ok(document) = parser.parse(xml) else { return wrong("the response is not XML, or has a document type") };
    let tree = Tree(&document);
    let root = document.document_element().ok_or(Problem::Wrong("the response is empty"))?;
    ensure(tree.is(root, PROTOCOL, "Response"), "the response is not one")?;
    tree.check_envelope(root, expected)?;
    ensure(
        document.get_elements_by_tag_name_ns(ASSERTION, "EncryptedAssertion").is_empty(),
        "encrypted assertions are not taken",
    )?;
    let [assertion] = document.get_elements_by_tag_name_ns(ASSERTION, "Assertion")[..] else {
        return wrong("the response has no assertion, or more than one");
    };
    ensure(document.parent(assertion) == Some(root), "the assertion is not in its place")?;
    tree.check_signatures(xml, root, assertion, expected.certificates)?;
    // From here on everything is below an element whose signature is good.
    tree.read_assertion(assertion, expected)
}

struct Tree<'d, 'x>(&'d Document<'x>);

impl Tree<'_, '_> {
    fn is(&self, node: NodeId, namespace: &str, name: &str) -> bool {
        self.0.element(node).is_some_and(|element| element.matches_name_ns(namespace, name))
    }

    /// An attribute without a namespace.
    fn attribute(&self, node: NodeId, name: &str) -> Option<&str> {
        let element = self.0.element(node)?;
        let found = element.attributes.iter().find(|a| a.name.namespace_uri.is_none() && a.name.local_name == name);
        found.map(|attribute| attribute.value.as_ref())
    }

    /// The only child with a name.
    fn one(&self, node: NodeId, namespace: &str, name: &str, what: &'static str) -> Checked<NodeId> {
        match self.0.child_elements_by_name_ns(node, namespace, name)[..] {
            [one] => Ok(one),
            _ => wrong(what),
        }
    }

    /// The text of an element that has no elements inside. Comments are passed over, as a signature passes over them: what they
    /// cut in two is one text.
    fn text(&self, node: NodeId) -> Checked<String> {
        let mut text = String::new();
        for child in self.0.children(node) {
            match self.0.node_kind(child) {
                Some(NodeKind::Text(part) | NodeKind::CData(part)) => text.push_str(part),
                Some(NodeKind::Comment(_)) => {}
                _ => return wrong("a value has something inside that is no text"),
            }
        }
        Ok(text.trim().to_owned())
    }

    fn time(&self, node: NodeId, name: &str) -> Checked<Option<OffsetDateTime>> {
        let Some(text) = self.attribute(node, name) else { return Ok(None) };
        OffsetDateTime::parse(text, &Rfc3339).map(Some).map_err(|_| Problem::Wrong("a time is not one"))
    }

    /// What the response itself says, which may be unsigned: it can only refuse.
    fn check_envelope(&self, root: NodeId, expected: &Expected<'_>) -> Checked<()> {
        ensure(self.attribute(root, "Version") == Some("2.0"), "the response is not of SAML 2.0")?;
        ensure(self.attribute(root, "InResponseTo") == Some(expected.request), "the response is to another request")?;
        let destination = self.attribute(root, "Destination");
        ensure(destination.is_none_or(|to| to == expected.recipient), "the response is for another address")?;
        for issuer in self.0.child_elements_by_name_ns(root, ASSERTION, "Issuer") {
            ensure(self.text(issuer)? == expected.issuer, "the response is another issuer's")?;
        }
        let status = self.one(root, PROTOCOL, "Status", "the response has no status")?;
        let code = self.one(status, PROTOCOL, "StatusCode", "the response has no status")?;
        if self.attribute(code, "Value") == Some(SUCCESS) { Ok(()) } else { Err(Problem::Denied) }
    }

    /// Every signature of the document is the response's or the assertion's own, and good; and there is one.
    fn check_signatures(&self, xml: &str, root: NodeId, assertion: NodeId, certificates: &[String]) -> Checked<()> {
        let signatures = self.0.get_elements_by_tag_name_ns(DSIG, "Signature");
        ensure(!signatures.is_empty(), "nothing is signed")?;
        let mut signed = Vec::new();
        for signature in &signatures {
            let parent = self.0.parent(*signature).filter(|parent| [root, assertion].contains(parent));
            let parent = parent.ok_or(Problem::Wrong("a signature is not in its place"))?;
            ensure(!signed.contains(&parent), "something is signed twice")?;
            self.check_form(*signature, parent)?;
            signed.push(parent);
        }
        let mut keys = KeysManager::new();
        keys.add_keys(certificates.iter().filter_map(|pem| load_x509_cert_pem(pem.as_bytes()).ok()));
        // Trusts these keys only, and no key of the document.
        let context = DsigContext::new(keys);
        let Ok(results) = verify_all_document_with_source(&context, self.0, Some(xml)) else {
            return wrong("the signatures cannot be checked");
        };
        ensure(results.len() == signatures.len(), "a signature was not checked")?;
        for result in results {
            let VerifyResult::Valid { signature_node, references, .. } = result else {
                return wrong("a signature is not the identity provider's");
            };
            let [reference] = references.as_slice() else { return wrong("a signature is not about one element") };
            let parent = self.0.parent(signature_node);
            let own = parent.is_some() && reference.resolved_node == parent && reference.digest_verified;
            ensure(own && signatures.contains(&signature_node), "a signature is about another element")?;
        }
        Ok(())
    }

    /// The form of a signature (SAML Core, section 5.4): about its parent as a whole, by methods that prove something.
    fn check_form(&self, signature: NodeId, parent: NodeId) -> Checked<()> {
        let form = "a signature has a form that is not taken";
        let method = |node, name| -> Checked<&str> {
            let node = self.one(node, DSIG, name, form)?;
            self.attribute(node, "Algorithm").ok_or(Problem::Wrong(form))
        };
        ensure(self.0.child_elements_by_name_ns(signature, DSIG, "Object").is_empty(), form)?;
        let info = self.one(signature, DSIG, "SignedInfo", form)?;
        self.one(signature, DSIG, "SignatureValue", form)?;
        ensure(method(info, "CanonicalizationMethod")? == CANONICAL, form)?;
        ensure(
            SIGNATURES.contains(&method(info, "SignatureMethod")?),
            "a signature is made by a method that proves nothing",
        )?;
        let reference = self.one(info, DSIG, "Reference", form)?;
        ensure(
            DIGESTS.contains(&method(reference, "DigestMethod")?),
            "a digest is made by a method that proves nothing",
        )?;
        let id = self.attribute(parent, "ID").filter(|id| !id.is_empty()).ok_or(Problem::Wrong(form))?;
        let about = self.attribute(reference, "URI").and_then(|uri| uri.strip_prefix('#'));
        ensure(about == Some(id), "a signature is about another element")?;
        let transforms = self.one(reference, DSIG, "Transforms", form)?;
        let transforms: Vec<_> = self
            .0
            .children(transforms)
            .into_iter()
            .filter(|node| self.0.element(*node).is_some())
            .map(|node| self.attribute(node, "Algorithm").filter(|_| self.is(node, DSIG, "Transform")))
            .collect();
        ensure(transforms == [Some(ENVELOPED), Some(CANONICAL)], form)
    }

    fn read_assertion(&self, assertion: NodeId, expected: &Expected<'_>) -> Checked<Proved> {
        ensure(self.attribute(assertion, "Version") == Some("2.0"), "the assertion is not of SAML 2.0")?;
        let issuer = self.one(assertion, ASSERTION, "Issuer", "the assertion has no issuer")?;
        ensure(self.text(issuer)? == expected.issuer, "the assertion is another issuer's")?;
        let issued = self.time(assertion, "IssueInstant")?;
        ensure(
            issued.is_some_and(|at| at <= expected.now + CLOCK_SKEW),
            "the assertion is from the future, or of no time",
        )?;
        let until = self.check_conditions(assertion, expected)?;
        let (subject, format, confirmed) = self.read_subject(assertion, expected)?;
        let statements = self.0.child_elements_by_name_ns(assertion, ASSERTION, "AuthnStatement");
        ensure(!statements.is_empty(), "the assertion does not say that anybody signed in")?;
        for statement in statements {
            let over = self.time(statement, "SessionNotOnOrAfter")?;
            ensure(
                over.is_none_or(|over| expected.now < over + CLOCK_SKEW),
                "the session at the identity provider is over",
            )?;
        }
        let attributes = self.read_attributes(assertion)?;
        let first = |names: &[&str]| {
            let found = attributes.iter().find(|(name, _)| names.contains(&name.as_str()));
            found.and_then(|(_, values)| values.first().cloned())
        };
        let email = first(EMAIL_ATTRIBUTES).or_else(|| (format == Some(EMAIL_FORMAT)).then(|| subject.clone()));
        let name = first(NAME_ATTRIBUTES);
        let groups = attributes.iter().filter(|(name, _)| name == expected.groups_attribute);
        let groups = groups.flat_map(|(_, values)| values.clone()).take(GROUPS_MAX).collect();
        let id = self.attribute(assertion, "ID").filter(|id| !id.is_empty());
        let id = id.ok_or(Problem::Wrong("the assertion has no id"))?.to_owned();
        let until = until.max(confirmed) + CLOCK_SKEW;
        Ok(Proved { assertion: id, until, vouched: Vouched { subject, email, name, groups } })
    }

    /// Until when the assertion is good.
    fn check_conditions(&self, assertion: NodeId, expected: &Expected<'_>) -> Checked<OffsetDateTime> {
        let conditions = self.one(assertion, ASSERTION, "Conditions", "the assertion has no conditions")?;
        let from = self.time(conditions, "NotBefore")?;
        ensure(from.is_none_or(|from| from <= expected.now + CLOCK_SKEW), "the assertion is not good yet")?;
        let until = self.time(conditions, "NotOnOrAfter")?.ok_or(Problem::Wrong("the assertion never expires"))?;
        ensure(expected.now < until + CLOCK_SKEW, "the assertion has expired")?;
        let restrictions = self.0.child_elements_by_name_ns(conditions, ASSERTION, "AudienceRestriction");
        ensure(!restrictions.is_empty(), "the assertion is for no audience")?;
        for restriction in restrictions {
            let mut ours = false;
            for audience in self.0.child_elements_by_name_ns(restriction, ASSERTION, "Audience") {
                ours |= self.text(audience)? == expected.audience;
            }
            ensure(ours, "the assertion is for another audience")?;
        }
        Ok(until)
    }

    /// The subject, its format, and until when its bearer is believed (SAML Profiles, section 4.1.4.2).
    fn read_subject(
        &self,
        assertion: NodeId,
        expected: &Expected<'_>,
    ) -> Checked<(String, Option<&str>, OffsetDateTime)> {
        let subject = self.one(assertion, ASSERTION, "Subject", "the assertion has no subject")?;
        let name = self.one(subject, ASSERTION, "NameID", "the subject has no name")?;
        let format = self.attribute(name, "Format");
        ensure(
            format != Some(TRANSIENT),
            "the subject's name is another each time; have the provider send a persistent one",
        )?;
        let text = self.text(name)?;
        let sound = (1..=SUBJECT_LENGTH_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        ensure(sound, "the subject is not 1 to 255 characters long")?;
        for confirmation in self.0.child_elements_by_name_ns(subject, ASSERTION, "SubjectConfirmation") {
            if self.attribute(confirmation, "Method") == Some(BEARER)
                && let [data] = self.0.child_elements_by_name_ns(confirmation, ASSERTION, "SubjectConfirmationData")[..]
                && self.attribute(data, "Recipient") == Some(expected.recipient)
                && self.attribute(data, "InResponseTo") == Some(expected.request)
                && self.attribute(data, "NotBefore").is_none()
                && let Some(until) = self.time(data, "NotOnOrAfter")?
                && expected.now < until + CLOCK_SKEW
            {
                return Ok((text, format, until));
            }
        }
        wrong("the subject is not confirmed for this sign-on: recipient, request or time is another")
    }

    fn read_attributes(&self, assertion: NodeId) -> Checked<Vec<(String, Vec<String>)>> {
        let mut attributes = Vec::new();
        for statement in self.0.child_elements_by_name_ns(assertion, ASSERTION, "AttributeStatement") {
            for attribute in self.0.child_elements_by_name_ns(statement, ASSERTION, "Attribute") {
                let values = self.0.child_elements_by_name_ns(attribute, ASSERTION, "AttributeValue");
                // A value that is no text is of no use here.
                let values = values.into_iter().filter_map(|value| self.text(value).ok()).collect();
                attributes.push((self.attribute(attribute, "Name").unwrap_or_default().to_owned(), values));
            }
        }
        Ok(attributes)
    }
}
