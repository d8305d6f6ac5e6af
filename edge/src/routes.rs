//! Routes from several crates on the same paths: each contributes its methods, one resource a path answers them all, and any
//! other method is told which there are.

use crate::access::{EndpointInfo, Guarded, Open};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::openapi::{Describe, Operation, describe};
use actix_web::http::Method;
use actix_web::{FromRequest, Handler, Responder, Route, web};
use std::collections::BTreeMap;

/// What a handler takes that says which endpoint it is, and that lets through only who may call it.
pub trait Guard {
    /// The endpoint.
    type Endpoint: Guarded;
}

impl<E: Guarded> Guard for Caller<E> {
    type Endpoint = E;
}

/// The arguments of a handler whose first is a guard.
pub trait GuardedBy<E> {}

macro_rules! guarded_by {
    ($($argument:ident)*) => {
        impl<G: Guard, $($argument,)*> GuardedBy<G::Endpoint> for (G, $($argument,)*) {}
    };
}
guarded_by!();
guarded_by!(A);
guarded_by!(A B);
guarded_by!(A B C);
guarded_by!(A B C D);
guarded_by!(A B C D F);

/// What describes an endpoint.
pub(crate) type Describing = fn(&mut Operation<'_>);

/// A table of routes.
#[derive(Default)]
pub struct Routes {
    // Sorted, so that a literal segment stands before a parameter in the same place ('{' sorts after letters).
    by_path: BTreeMap<&'static str, Vec<(Method, Route)>>,
    described: Vec<(EndpointInfo, Describing)>,
}

impl Routes {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an endpoint; its handler's first argument is its [`Guard`].
    #[must_use]
    pub fn on<E, F, A>(self, _: E, handler: F) -> Self
    where
        E: Guarded,
        F: Handler<A>,
        A: GuardedBy<E> + FromRequest + Describe + 'static,
        F::Output: Responder + Describe + 'static,
    {
        self.describes(E::INFO, describe::<A, F::Output>).route(E::INFO.method, E::INFO.path, handler)
    }

    /// Adds an endpoint that anyone may call.
    #[must_use]
    pub fn open<E, F, A>(self, _: E, handler: F) -> Self
    where
        E: Open,
        F: Handler<A>,
        A: FromRequest + Describe + 'static,
        F::Output: Responder + Describe + 'static,
    {
        self.describes(E::INFO, describe::<A, F::Output>).route(E::INFO.method, E::INFO.path, handler)
    }

    fn describes(mut self, endpoint: EndpointInfo, describe: Describing) -> Self {
        self.described.push((endpoint, describe));
        self
    }

    /// Its endpoints, each with what describes it.
    pub(crate) fn described(&self) -> impl Iterator<Item = &(EndpointInfo, Describing)> {
        self.described.iter()
    }

    /// Adds a route; to a `GET` the `HEAD` that belongs to it (RFC 9110, section 9.1): the same answer without its body.
    #[must_use]
    pub(crate) fn route<F, A>(mut self, method: Method, path: &'static str, handler: F) -> Self
    where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let routes = self.by_path.entry(path).or_default();
        if method == Method::GET {
            routes.push((Method::HEAD, web::method(Method::HEAD).to(handler.clone())));
        }
        routes.push((method.clone(), web::method(method).to(handler)));
        self
    }

    /// Adds all of another table.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        for (path, routes) in other.by_path {
            self.by_path.entry(path).or_default().extend(routes);
        }
        self.described.extend(other.described);
        self
    }

    /// Serves the table.
    pub fn configure(self, config: &mut web::ServiceConfig) {
        for (path, routes) in self.by_path {
            let mut methods: Vec<_> = routes.iter().map(|(method, _)| method.as_str()).collect();
            methods.sort_unstable();
            let allowed = methods.join(", ");
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

pub(crate) fn no_such_path() -> ApiError {
    ApiError::new(ErrorCode::RouteNotFound, "there is no such path")
}

/// The answer to a path that is not in the table.
pub async fn not_found() -> Result<&'static str, ApiError> {
    Err(no_such_path())
}
