//! Routes from several crates on the same paths: each contributes its methods, one resource a path answers them all, and any
//! other method is told which there are.

use crate::error::{ApiError, ErrorCode};
use actix_web::http::Method;
use actix_web::{Handler, Responder, Route, web};
use std::collections::BTreeMap;

/// A table of routes.
#[derive(Default)]
pub struct Routes {
    // Sorted, so that a literal segment stands before a parameter in the same place ('{' sorts after letters).
    by_path: BTreeMap<&'static str, Vec<(Method, Route)>>,
}

impl Routes {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route.
    #[must_use]
    pub fn on<F, A>(mut self, method: Method, path: &'static str, handler: F) -> Self
    where
        F: Handler<A>,
        A: actix_web::FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let route = web::method(method.clone()).to(handler);
        self.by_path.entry(path).or_default().push((method, route));
        self
    }

    /// Adds a `GET`, and with it the `HEAD` that belongs to it (RFC 9110, section 9.1): the same answer without its body.
    #[must_use]
    pub fn get<F, A>(self, path: &'static str, handler: F) -> Self
    where
        F: Handler<A>,
        A: actix_web::FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.on(Method::GET, path, handler.clone()).on(Method::HEAD, path, handler)
    }

    /// Adds all of another table.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        for (path, routes) in other.by_path {
            self.by_path.entry(path).or_default().extend(routes);
        }
        self
    }

    /// Serves the table.
    pub fn configure(self, config: &mut web::ServiceConfig) {
        for (path, routes) in self.by_path {
            let allowed = routes.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", ");
            let refuse = move || {
                let error = ApiError::new(ErrorCode::MethodNotAllowed, format!("this path takes {allowed}"))
                    .allow(allowed.clone());
                async move { Err::<&str, _>(error) }
            };
            let resource = routes.into_iter().fold(web::resource(path), |resource, (_, route)| resource.route(route));
            config.service(resource.default_service(web::to(refuse)));
        }
    }
}

/// The answer to a path that is not in the table.
pub async fn not_found() -> Result<&'static str, ApiError> {
    Err(ApiError::new(ErrorCode::RouteNotFound, "there is no such path"))
}
