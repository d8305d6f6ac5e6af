//! What the API says of itself: its description, a reference page over it, and a page for each code of errors. All of it comes
//! from this process: no page needs another host.

use crate::error::{ApiError, ERROR_PAGES, ErrorCode};
use crate::openapi::Document;
use crate::routes::{Routes, no_such_path};
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ContentEncoding, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use std::borrow::Cow;
use std::sync::Arc;
use utoipa_swagger_ui::{Config, serve};

const DESCRIPTION_PATH: &str = "/openapi.json";
/// The reference page; the sheets and scripts beside it.
const PAGE: &str = "/docs/api/{file:.*}";
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#1b1f24}\
    code{background:#eef1f4;padding:.1em .3em;border-radius:3px}td,th{text-align:left;padding:.3rem .8rem .3rem 0;\
    vertical-align:top}a{color:#0a58ca}";

/// The description, written down once.
#[derive(Clone)]
pub struct Reference {
    json: web::Bytes,
    page: Arc<Config<'static>>,
}

impl Reference {
    /// Over a description.
    #[must_use]
    pub fn new(document: &Document) -> Self {
        let page = Config::from(DESCRIPTION_PATH).try_it_out_enabled(true).persist_authorization(false);
        Self { json: web::Bytes::from(document.value().to_string()), page: Arc::new(page) }
    }

    /// Serves it.
    pub fn configure(&self, config: &mut web::ServiceConfig) {
        config.app_data(web::Data::new(self.clone()));
        Routes::new()
            .route(Method::GET, DESCRIPTION_PATH, description)
            .route(Method::GET, "/docs", home)
            .route(Method::GET, "/docs/api", to_page)
            .route(Method::GET, PAGE, file)
            .route(Method::GET, ERROR_PAGES, codes)
            .route(Method::GET, "/docs/errors/{code}", code)
            .configure(config);
    }
}

async fn description(reference: web::Data<Reference>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header((CACHE_CONTROL, "public, max-age=300"))
        .body(reference.json.clone())
}

async fn to_page() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((LOCATION, "/docs/api/")).finish()
}

/// The reference page, or a sheet or script beside it.
async fn file(request: HttpRequest, reference: web::Data<Reference>) -> Result<HttpResponse, ApiError> {
    let path = request.match_info().get("file").unwrap_or_default();
    let found = serve(path, Arc::clone(&reference.page)).map_err(ApiError::internal)?;
    let file = found.ok_or_else(no_such_path)?;
    let mut response = HttpResponse::Ok();
    if file.gzpipped {
        response.insert_header(ContentEncoding::Gzip);
    }
    // The program has it anyway: whoever reads it slowly takes no memory.
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => web::Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Ok(response.content_type(file.content_type).body(bytes))
}

fn page(title: &str, body: &str) -> HttpResponse {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    );
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "public, max-age=300"))
        .body(html)
}

async fn home() -> HttpResponse {
    page(
        "The Warehouse Hub",
        "<h1>The Warehouse Hub</h1><ul><li><a href=\"/docs/api/\">Reference of the API</a>, to read and to try</li>\
         <li><a href=\"/openapi.json\">Its description</a> (OpenAPI 3.1), to make clients from</li>\
         <li><a href=\"/docs/errors\">Errors</a>: what each code means and what to do</li></ul>",
    )
}

/// Text, as HTML.
fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

async fn codes() -> HttpResponse {
    let rows: String = ErrorCode::ALL
        .iter()
        .map(|code| {
            format!(
                "<tr><td>{}</td><td><a href=\"{}\"><code>{}</code></a></td><td>{}</td></tr>",
                code.status().as_u16(),
                code.page(),
                code.name(),
                html(code.meaning())
            )
        })
        .collect();
    page("Errors", &format!("<h1>Errors</h1><table>{rows}</table>"))
}

async fn code(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let name = request.match_info().get("code").unwrap_or_default().to_ascii_uppercase();
    let code = ErrorCode::from_name(&name).ok_or_else(|| ApiError::not_found("code of an error"))?;
    Ok(page(
        code.name(),
        &format!(
            "<p><a href=\"{ERROR_PAGES}\">Errors</a></p><h1><code>{}</code></h1><p>HTTP status {}</p>\
             <h2>What it means</h2><p>{}</p><h2>What to do</h2><p>{}</p>\
             <p>The answer's <code>details</code> say what was wrong and where; its <code>request_id</code> finds the request in \
             the logs.</p>",
            code.name(),
            code.status().as_u16(),
            html(code.meaning()),
            html(code.remedy())
        ),
    ))
}
