//! A browser as far as a sign-on needs one: it keeps cookies for each host, follows redirects when it is told to, submits forms.

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Url};
use std::collections::BTreeMap;
use std::time::Duration;
use twh_tests::Answer;

/// Redirects and forms of one sign-on.
const STEPS_MAX: usize = 20;

pub(crate) struct Browser {
    client: Client,
    /// Of each host and port, by name.
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

/// A page: an answer, and its text.
struct Page {
    url: Url,
    answer: Answer,
    text: String,
}

impl Browser {
    pub(crate) fn new() -> Self {
        let client = Client::builder().redirect(Policy::none()).timeout(Duration::from_secs(60)).build().unwrap();
        Self { client, cookies: BTreeMap::new() }
    }

    async fn open(&mut self, method: Method, url: &Url, form: Option<String>) -> Page {
        let host = url.authority().to_owned();
        let jar = self.cookies.entry(host).or_default();
        let sent: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = self.client.request(method, url.clone()).header(COOKIE, sent.join("; "));
        if let Some(form) = form {
            request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        for header in headers.get_all(SET_COOKIE) {
            let (pair, attributes) = header.to_str().unwrap().split_once(';').unwrap_or_default();
            let (name, value) = pair.split_once('=').unwrap();
            let gone = value.is_empty() || attributes.contains("Max-Age=0") || attributes.contains("1970");
            if gone {
                jar.remove(name)
            } else {
                jar.insert(name.to_owned(), value.to_owned())
            };
        }
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Page { url: url.clone(), answer: Answer { status, headers, body }, text }
    }

    /// Opens an address, and follows nothing.
    pub(crate) async fn get(&mut self, url: &str) -> Answer {
        self.open(Method::GET, &Url::parse(url).unwrap(), None).await.answer
    }

    /// Opens an address; says what it shows.
    #[cfg(feature = "saml")]
    pub(crate) async fn page(&mut self, url: &str) -> String {
        let page = self.open(Method::GET, &Url::parse(url).unwrap(), None).await;
        assert!(page.answer.status.is_success(), "{}: {}", page.url, page.text);
        page.text
    }

    /// Submits a form.
    #[cfg(feature = "saml")]
    pub(crate) async fn post(&mut self, url: &str, fields: &[(&str, String)]) -> Answer {
        let mut form = Url::parse("form:").unwrap();
        form.query_pairs_mut().extend_pairs(fields);
        let form = form.query().unwrap_or_default().to_owned();
        self.open(Method::POST, &Url::parse(url).unwrap(), Some(form)).await.answer
    }

    /// Goes on from page to page, as `login` who agrees to everything, until it is sent back to where it began; says whereto.
    async fn walks(&mut self, start: &str, login: Option<&str>) -> String {
        let home = Url::parse(start).unwrap().authority().to_owned();
        let mut page = self.open(Method::GET, &Url::parse(start).unwrap(), None).await;
        for _ in 0..STEPS_MAX {
            let status = page.answer.status;
            if status.is_redirection() {
                let next = page.url.join(page.answer.headers[LOCATION].to_str().unwrap()).unwrap();
                if next.authority() == home {
                    return next.into();
                }
                page = self.open(Method::GET, &next, None).await;
                continue;
            }
            assert!(status.is_success(), "{}: {status} {}", page.url, page.text);
            let (action, form) = match login {
                Some(login) if page.text.contains("name=\"login\"") => {
                    (attribute(&page.text, "action"), Some(format!("prompt=login&login={login}&password=x")))
                }
                Some(_) => (attribute(&page.text, "action"), Some("prompt=consent".to_owned())),
                // The link that cancels.
                None => (page.text.split('"').find(|part| part.ends_with("/abort")).unwrap().to_owned(), None),
            };
            let method = if form.is_some() { Method::POST } else { Method::GET };
            page = self.open(method, &page.url.join(&action).unwrap(), form).await;
        }
        panic!("it leads nowhere: {}", page.url);
    }

    /// Signs in at the provider; says whereto it is sent back, and does not go there.
    pub(crate) async fn comes_back(mut self, start: &str, login: &str) -> (String, Self) {
        (self.walks(start, Some(login)).await, self)
    }

    /// Signs on; says whereto it was sent back, and what came there.
    pub(crate) async fn signs_on(&mut self, start: &str, login: &str) -> (String, Answer) {
        let back = self.walks(start, Some(login)).await;
        let answer = self.get(&back).await;
        (back, answer)
    }

    /// Cancels at the provider.
    pub(crate) async fn says_no(&mut self, start: &str) -> Answer {
        let back = self.walks(start, None).await;
        self.get(&back).await
    }
}

/// The first attribute of this name in a page.
fn attribute(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {page}"));
    rest.split('"').next().unwrap_or_default().to_owned()
}
