//! An identity provider that says what it is told to say, and the keys with which tokens are made, rightly or not.

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// What it says.
#[derive(Default)]
struct Said {
    id_token: Option<String>,
    userinfo: Value,
    jwks: Value,
    key_fetches: usize,
    /// What other issuers on the same server say otherwise: the name is the issuer's path.
    otherwise: BTreeMap<String, Value>,
}

type Shared = web::Data<Mutex<Said>>;

pub(crate) struct Hostile {
    pub(crate) issuer: String,
    said: Shared,
    signer: Arc<Signer>,
    server: actix_web::dev::ServerHandle,
}

impl Hostile {
    pub(crate) async fn start() -> Self {
        let signer = Arc::new(Signer::new("k1"));
        let said = Shared::new(Mutex::new(Said { jwks: json!({ "keys": [signer.public()] }), ..Said::default() }));
        let data = said.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/token", web::post().to(token))
                .route("/jwks", web::get().to(jwks))
                .route("/me", web::get().to(userinfo))
                .route("/{path:.*}", web::get().to(metadata))
        })
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
        let issuer = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { issuer, said, signer, server: handle }
    }

    pub(crate) fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.signer)
    }

    pub(crate) fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    /// This ID token comes for the next codes.
    pub(crate) fn gives(&self, id_token: &str) {
        self.said.lock().unwrap().id_token = Some(id_token.to_owned());
    }

    /// No code is good.
    pub(crate) fn gives_nothing(&self) {
        self.said.lock().unwrap().id_token = None;
    }

    pub(crate) fn userinfo(&self, claims: &Value) {
        self.said.lock().unwrap().userinfo = claims.clone();
    }

    pub(crate) fn key_fetches(&self) -> usize {
        self.said.lock().unwrap().key_fetches
    }

    /// Another issuer, which says one thing otherwise.
    pub(crate) fn with(&self, name: &str, value: &Value) -> String {
        self.said.lock().unwrap().otherwise.insert(name.to_owned(), value.clone());
        format!("{}/{name}", self.issuer)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

async fn metadata(request: HttpRequest, said: Shared) -> HttpResponse {
    let host = format!("http://{}", request.connection_info().host());
    let Some(path) = request.path().strip_suffix("/.well-known/openid-configuration") else {
        return HttpResponse::NotFound().finish();
    };
    match path {
        "/redirect" => return HttpResponse::Found().insert_header(("location", host)).finish(),
        "/endless" => return HttpResponse::Ok().body(vec![b' '; 10_000_000]),
        _ => {}
    }
    // Under another path too it says that it is itself: that is a lie.
    let name = path.trim_start_matches('/');
    let otherwise = said.lock().unwrap().otherwise.get(name).cloned();
    let issuer = if otherwise.is_some() { format!("{host}{path}") } else { host.clone() };
    let mut document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{host}/authorize"),
        "token_endpoint": format!("{host}/token"),
        "jwks_uri": format!("{host}/jwks"),
        "userinfo_endpoint": format!("{host}/me"),
    });
    if let Some(value) = otherwise {
        document[name] = value;
    }
    HttpResponse::Ok().json(document)
}

async fn token(said: Shared) -> HttpResponse {
    match &said.lock().unwrap().id_token {
        Some(token) => {
            HttpResponse::Ok().json(json!({ "access_token": "a", "token_type": "Bearer", "id_token": token }))
        }
        None => HttpResponse::BadRequest().json(json!({ "error": "invalid_grant" })),
    }
}

async fn jwks(said: Shared) -> HttpResponse {
    let mut said = said.lock().unwrap();
    said.key_fetches += 1;
    HttpResponse::Ok().json(&said.jwks)
}

async fn userinfo(said: Shared) -> HttpResponse {
    HttpResponse::Ok().json(&said.lock().unwrap().userinfo)
}

/// An Ed25519 key with a name.
pub(crate) struct Signer {
    kid: String,
    key: SigningKey,
}

impl Signer {
    pub(crate) fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), key: SigningKey::from_bytes(&rand::random()) }
    }

    fn public(&self) -> Value {
        let x = BASE64_URL_SAFE_NO_PAD.encode(self.key.verifying_key().as_bytes());
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid, "x": x })
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) }
    }

    fn encoded(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ed_der(self.key.to_pkcs8_der().unwrap().as_bytes());
        encode(header, claims, &key).unwrap()
    }

    /// As it should be.
    pub(crate) fn signs(&self, claims: &Value) -> String {
        self.encoded(&self.header(), claims)
    }

    pub(crate) fn signs_with_own_key_in_header(&self, claims: &Value) -> String {
        let jwk = serde_json::from_value(self.public()).unwrap();
        self.encoded(&Header { jwk: Some(jwk), ..self.header() }, claims)
    }

    /// With an extension that whoever reads it must understand.
    pub(crate) fn signs_critically(&self, claims: &Value) -> String {
        self.encoded(&Header { crit: Some(vec!["exp".to_owned()]), ..self.header() }, claims)
    }

    /// The published key taken for a secret.
    pub(crate) fn signs_hs256(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::HS256) };
        encode(&header, claims, &EncodingKey::from_secret(self.key.verifying_key().as_bytes())).unwrap()
    }

    pub(crate) fn signs_with(secret: &[u8], claims: &Value) -> String {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    /// Not signed at all.
    pub(crate) fn none(claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&json!({ "alg": "none", "typ": "JWT" })), part(claims))
    }
}
