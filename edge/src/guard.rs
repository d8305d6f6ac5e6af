//! What protects every answer and every connection, whatever is asked: headers for browsers, other origins, proxies, TLS.

use actix_cors::Cors;
use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

/// How long a browser may believe what another origin may ask, in seconds.
const PREFLIGHT_SECONDS: usize = 600;
/// How long a browser speaks nothing but TLS with us, in seconds: two years.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000; includeSubDomains");
/// Answers of the API are data: nothing in them is to be run or framed.
const DATA_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// Pages of ours bring all that they need, and their styles stand in them.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
);
/// How long a client may take nothing of what was written to its connection.
const TAKES_WITHIN: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Headers of answers that scripts of other origins may read.
const EXPOSED: [HeaderName; 14] = [
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-twh-position"),
    HeaderName::from_static("x-twh-reflects"),
    HeaderName::from_static("x-twh-search"),
    HeaderName::from_static("x-twh-command-id"),
    HeaderName::from_static("idempotent-replayed"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
];

/// Whether browsers reach us by TLS only.
#[derive(Debug, Clone, Copy, Default)]
pub struct OnlyTls(pub bool);

/// Adds the headers that tell browsers what an answer is not.
pub(crate) fn protect(request: &HttpRequest, headers: &mut HeaderMap) {
    let page = request.path().starts_with("/docs");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, if page { PAGE_POLICY } else { DATA_POLICY });
    if !headers.contains_key(header::REFERRER_POLICY) {
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    // What is answered to one caller is for no cache between it and us.
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if request.app_data::<OnlyTls>().is_some_and(|only| only.0) {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
}

/// Lets scripts of these origins ask: with a key or token that they have, never with a browser's own credentials.
pub fn cors(origins: &[String]) -> Cors {
    let cors = origins.iter().fold(Cors::default(), |cors, origin| match origin.as_str() {
        "*" => cors.allow_any_origin(),
        origin => cors.allowed_origin(origin),
    });
    cors.allowed_methods([Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE])
        .allow_any_header()
        .expose_headers(EXPOSED)
        .max_age(PREFLIGHT_SECONDS)
}

/// The proxies whose word on where a request comes from is taken.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(pub Vec<IpNet>);

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address: the nearest in `X-Forwarded-For` that is no proxy of ours. What stands before that, a client can
    /// have made up.
    fn client(&self, peer: IpAddr, forwarded: &[&str]) -> IpAddr {
        let mut client = peer;
        for text in forwarded.iter().rev().flat_map(|value| value.rsplit(',')) {
            if !self.trusts(client) {
                break;
            }
            let Ok(before) = text.trim().parse::<IpAddr>() else { break };
            client = before.to_canonical();
        }
        client
    }
}

/// Where a request comes from.
pub(crate) fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    let Some(proxies) = request.app_data::<TrustedProxies>() else { return Some(peer) };
    let forwarded: Vec<_> = request.headers().get_all(FORWARDED_FOR).filter_map(|value| value.to_str().ok()).collect();
    let client = proxies.client(peer, &forwarded);
    if client == peer && !forwarded.is_empty() {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(%peer, "X-Forwarded-For of a peer outside TWH_TRUSTED_PROXIES is ignored; behind a proxy all clients count as one");
        });
    }
    Some(client)
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is no PEM of the kind.
    #[error("{0} cannot be used: {1}")]
    File(String, rustls::pki_types::pem::Error),
    /// The certificate and the key are not of a pair, or not usable.
    #[error("the certificate and the key cannot be used: {0}")]
    Pair(#[from] rustls::Error),
}

/// TLS 1.3 with a certificate (its chain, the own first) and its key, in PEM.
pub fn tls(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let unusable = |path: &Path| {
        let path = path.display().to_string();
        move |error| TlsError::File(path, error)
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).map_err(unusable(certificate))?.collect();
    let chain = chain.map_err(unusable(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(unusable(key))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    Ok(builder.with_protocol_versions(&[&TLS13])?.with_no_client_auth().with_single_cert(chain, key)?)
}

/// Listens there. A connection ends where its client takes nothing of what was written for [`TAKES_WITHIN`]: what waits to be sent
/// is memory, and a client that is gone does not say so.
pub fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // The connections that it accepts have it from here.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TAKES_WITHIN))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_of_our_own_proxies_is_taken() {
        let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let client = |peer: &str, forwarded: &[&str]| proxies.client(peer.parse().unwrap(), forwarded).to_string();
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9", "a client that says it is another");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.2"]), "198.51.100.1", "what it made up is left");
        assert_eq!(client("fd00::1", &["6.6.6.6", "198.51.100.1"]), "198.51.100.1", "several headers are one list");
        assert_eq!(client("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["::ffff:198.51.100.1"]), "198.51.100.1");
        assert_eq!(TrustedProxies::default().client("10.0.0.1".parse().unwrap(), &["1.1.1.1"]).to_string(), "10.0.0.1");
    }
}
