//! Who may do what: one table of endpoints, each with the scope it needs, and of scopes, each with the roles that have it.
//!
//! The routes, the authorization, the API's description and its tests are all made from it. An endpoint's need is part of its
//! handler's type ([`crate::auth::Caller`]), and a route takes only the handler of its endpoint: one that forgot to ask who
//! calls does not compile.

use crate::error::ErrorCode;
use actix_web::http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::fmt;
use twh_domain::commands::CommandKind;
use twh_domain::entity::EntityKind;
use twh_domain::limits::DOCUMENT_BYTES_MAX;
use twh_sinks::postgres::page::PAGE_BYTES_MAX;

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($variant:ident $name:literal $meaning:literal)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each is documented by its row of the table")]
        pub enum $type { $($variant,)* }

        impl $type {
            /// The whole table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// What it is for.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => $meaning,)* } }
            /// The one with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> { Self::ALL.iter().copied().find(|one| one.name() == name) }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($type).into() }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let lines: Vec<_> = Self::ALL.iter().map(|one| format!("`{}`: {}", one.name(), one.meaning())).collect();
                let names: Vec<_> = Self::ALL.iter().map(|one| one.name()).collect();
                json_schema!({ "type": "string", "enum": names, "description": lines.join("\n\n") })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.name()) }
        }
    };
}

names! {
    /// What a person or a key is to a tenant.
    Role {
        Admin "admin" "Everything."
        Dev "dev" "Builds on the API: all data, keys and the audit log; no people, no plan."
        ReadOnly "read_only" "Sees all data and changes none."
        Billing "billing" "Sees the plan and what was used of it."
    }
}

names! {
    /// What a caller may do. A key can have less than its role.
    Scope {
        ReadCatalog "read:catalog" "See items, locations and suppliers."
        WriteCatalog "write:catalog" "Make and change items, locations and suppliers."
        ReadOrders "read:orders" "See purchase orders, sales orders, returns and reservations."
        WriteOrders "write:orders" "Make and advance purchase orders, sales orders, returns and reservations."
        ReadStock "read:stock" "See levels, movements, transfers, adjustments and counts."
        WriteStock "write:stock" "Make and advance transfers, adjustments and counts."
        ReadLedger "read:ledger" "See checkpoints, proofs and verifications of the ledger."
        ReadAudit "read:audit" "See who did what."
        ReadKeys "read:keys" "See API keys, not their secrets."
        WriteKeys "write:keys" "Make, rotate and revoke API keys."
        ReadWebhooks "read:webhooks" "See webhook subscriptions, not their secrets, what was sent, and those events whose subjects it may read."
        WriteWebhooks "write:webhooks" "Make, change, test and replay webhook subscriptions, to events whose subjects it may read."
        ReadMembers "read:members" "See the people of the tenant and who is invited."
        WriteMembers "write:members" "Invite people, change their roles, remove them."
        ReadBilling "read:billing" "See the plan and its limits."
    }
}

impl Scope {
    /// The roles that have it.
    #[must_use]
    pub const fn roles(self) -> &'static [Role] {
        use Role::{Admin, Billing, Dev, ReadOnly};
        match self {
            Self::ReadCatalog | Self::ReadOrders | Self::ReadStock | Self::ReadLedger => &[Admin, Dev, ReadOnly],
            Self::WriteCatalog
            | Self::WriteOrders
            | Self::WriteStock
            | Self::ReadAudit
            | Self::ReadKeys
            | Self::WriteKeys
            | Self::ReadWebhooks
            | Self::WriteWebhooks => &[Admin, Dev],
            Self::ReadMembers | Self::WriteMembers => &[Admin],
            Self::ReadBilling => &[Admin, Billing],
        }
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u32);

impl Scopes {
    /// All that a role has.
    #[must_use]
    pub fn of_role(role: Role) -> Self {
        Scope::ALL.iter().copied().filter(|scope| scope.roles().contains(&role)).collect()
    }

    /// All that a key has: its role's, or those of them to which it is narrowed.
    #[must_use]
    pub fn of_key(role: Role, narrowed: Option<&[String]>) -> Self {
        let all = Self::of_role(role);
        narrowed.map_or(all, |names| all.and(names.iter().filter_map(|name| Scope::from_name(name)).collect()))
    }

    const fn bit(scope: Scope) -> u32 {
        1 << (scope as u32)
    }

    /// True where the scope is in it.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & Self::bit(scope) != 0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this one only.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// True where nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its scopes, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.has(*scope))
    }

    /// Their names.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(Scope::name).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |all, scope| all | Self::bit(scope)))
    }
}

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Anyone: it is how one becomes someone, or public by nature.
    Nobody,
    /// Anyone who is known.
    Caller,
    /// Someone who signed in; no API key.
    Person,
    /// Someone with one of these scopes.
    OneOf(&'static [Scope]),
}

impl Need {
    /// True where scopes are enough.
    #[must_use]
    pub fn is_met_by(self, scopes: Scopes) -> bool {
        match self {
            Self::Nobody | Self::Caller | Self::Person => true,
            Self::OneOf(any) => any.iter().any(|scope| scopes.has(*scope)),
        }
    }
}

/// How large an answer may be. By this, room is kept for it before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSize {
    /// No more than a connection holds by itself; what is larger for once finds its room when it is known.
    Small,
    /// A document.
    Document,
    /// Rows or documents, as many as a page may hold.
    Page,
}

impl AnswerSize {
    /// The most bytes that are expected.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => 0,
            Self::Document => 2 * DOCUMENT_BYTES_MAX,
            Self::Page => PAGE_BYTES_MAX,
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct EndpointInfo {
    /// Its name, unique.
    pub name: &'static str,
    /// The method; a `GET` answers `HEAD` too.
    pub method: Method,
    /// The path.
    pub path: &'static str,
    /// Who may call it.
    pub need: Need,
    /// The kind of command it sends to the ledger, where it does.
    pub command: Option<&'static CommandKind>,
    /// How large its answer may be.
    pub gives: AnswerSize,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What it may refuse with, besides what all of its shape do.
    pub refuses: &'static [ErrorCode],
}

/// An endpoint, as a type.
pub trait Endpoint: Copy + 'static {
    /// Its row of the table.
    const INFO: EndpointInfo;
}

/// An endpoint that only someone may call.
pub trait Guarded: Endpoint {}

/// An endpoint that sends a command to the ledger.
pub trait Sends: Guarded {
    /// The kind of command.
    const COMMAND: &'static CommandKind;
}

/// An endpoint that anyone may call.
pub trait Open: Endpoint {}

/// Does something with each endpoint that sends a command.
pub trait EachSender: Sized {
    /// Does it with one of them.
    #[must_use]
    fn sender<E: Sends>(self, endpoint: E) -> Self;
}

macro_rules! endpoints {
    (
        guarded { $($name:ident $method:ident $path:literal $need:expr, $(does $command:literal,)? $(gives $size:ident,)? $summary:literal $(refuses $($code:ident)+)?;)* }
        open { $($open_name:ident $open_method:ident $open_path:literal $open_summary:literal $(refuses $($open_code:ident)+)?;)* }
    ) => {
        $(
            #[doc = $summary]
            #[derive(Debug, Clone, Copy)]
            pub struct $name;
            impl Endpoint for $name {
                const INFO: EndpointInfo = EndpointInfo {
                    name: stringify!($name), method: Method::$method, path: $path, need: $need,
                    command: endpoints!(@command $($command)?), gives: endpoints!(@gives $($size)?), summary: $summary,
                    refuses: &[$($(ErrorCode::$code,)+)?],
                };
            }
            impl Guarded for $name {}
            endpoints!(@sends $name $($command)?);
        )*
        /// Does something with each endpoint that sends a command, in the order of the table.
        pub fn each_sender<V: EachSender>(visitor: V) -> V {
            $( endpoints!(@visit visitor $name $($command)?); )*
            visitor
        }
        $(
            #[doc = $open_summary]
            #[derive(Debug, Clone, Copy)]
            pub struct $open_name;
            impl Endpoint for $open_name {
                const INFO: EndpointInfo = EndpointInfo {
                    name: stringify!($open_name), method: Method::$open_method, path: $open_path, need: Need::Nobody,
                    command: None, gives: AnswerSize::Small, summary: $open_summary, refuses: &[$($(ErrorCode::$open_code,)+)?],
                };
            }
            impl Open for $open_name {}
        )*
        /// Every endpoint of the API.
        pub const ENDPOINTS: &[EndpointInfo] = &[$($name::INFO,)* $($open_name::INFO,)*];
    };
    (@gives) => { AnswerSize::Small };
    (@gives $size:ident) => { AnswerSize::$size };
    (@sends $name:ident) => {};
    (@sends $name:ident $command:literal) => {
        impl Sends for $name {
            const COMMAND: &'static CommandKind = CommandKind::named($command);
        }
    };
    (@visit $visitor:ident $name:ident) => {};
    (@visit $visitor:ident $name:ident $command:literal) => { let $visitor = $visitor.sender($name); };
    (@command) => { None };
    (@command $command:literal) => { Some(CommandKind::named($command)) };
}

const READ_CATALOG: Need = Need::OneOf(&[Scope::ReadCatalog]);
const WRITE_CATALOG: Need = Need::OneOf(&[Scope::WriteCatalog]);
const READ_ORDERS: Need = Need::OneOf(&[Scope::ReadOrders]);
const WRITE_ORDERS: Need = Need::OneOf(&[Scope::WriteOrders]);
const READ_STOCK: Need = Need::OneOf(&[Scope::ReadStock]);
const WRITE_STOCK: Need = Need::OneOf(&[Scope::WriteStock]);
const READ_LEDGER: Need = Need::OneOf(&[Scope::ReadLedger]);
const READ_AUDIT: Need = Need::OneOf(&[Scope::ReadAudit]);
const READ_KEYS: Need = Need::OneOf(&[Scope::ReadKeys]);
const WRITE_KEYS: Need = Need::OneOf(&[Scope::WriteKeys]);
const READ_WEBHOOKS: Need = Need::OneOf(&[Scope::ReadWebhooks]);
const WRITE_WEBHOOKS: Need = Need::OneOf(&[Scope::WriteWebhooks]);
const READ_MEMBERS: Need = Need::OneOf(&[Scope::ReadMembers]);
const WRITE_MEMBERS: Need = Need::OneOf(&[Scope::WriteMembers]);
const READ_BILLING: Need = Need::OneOf(&[Scope::ReadBilling]);
/// Each command of a batch needs its own scope besides.
const ANY_WRITE: Need = Need::OneOf(&[Scope::WriteCatalog, Scope::WriteOrders, Scope::WriteStock]);
const ANY_OUTCOME: Need = Need::OneOf(&[Scope::WriteCatalog, Scope::WriteOrders, Scope::WriteStock, Scope::ReadLedger]);

endpoints! {
    guarded {
        ListItems GET "/v1/items" READ_CATALOG, gives Page, "Items, oldest first.";
        SearchItems GET "/v1/items/search" READ_CATALOG, gives Page, "Items by what people type: codes first, then words, misspelt or not.";
        GetItem GET "/v1/items/{id}" READ_CATALOG, gives Document, "An item.";
        CreateItem POST "/v1/items" WRITE_CATALOG, does "item.create", "Adds an item to the catalogue.";
        UpdateItem PATCH "/v1/items/{id}" WRITE_CATALOG, does "item.update", "Changes an item.";
        GetItemStock GET "/v1/items/{id}/stock" READ_STOCK, gives Document, "An item's stock over all locations.";
        GetStockHistory GET "/v1/items/{id}/stock/history" READ_STOCK, gives Document, "An item's stock day by day.";
        GetItemSupply GET "/v1/items/{id}/supply" READ_STOCK, gives Document, "What there is of an item, what comes, what goes, and what to order.";
        ListItemMovements GET "/v1/items/{id}/movements" READ_STOCK, gives Page, "An item's movements, newest first.";
        ListLocations GET "/v1/locations" READ_CATALOG, gives Page, "Locations, oldest first.";
        GetLocation GET "/v1/locations/{id}" READ_CATALOG, gives Document, "A location.";
        CreateLocation POST "/v1/locations" WRITE_CATALOG, does "location.create", "Adds a location.";
        UpdateLocation PATCH "/v1/locations/{id}" WRITE_CATALOG, does "location.update", "Changes a location.";
        ListSuppliers GET "/v1/suppliers" READ_CATALOG, gives Page, "Suppliers, oldest first.";
        GetSupplier GET "/v1/suppliers/{id}" READ_CATALOG, gives Document, "A supplier.";
        CreateSupplier POST "/v1/suppliers" WRITE_CATALOG, does "supplier.create", "Adds a supplier.";
        UpdateSupplier PATCH "/v1/suppliers/{id}" WRITE_CATALOG, does "supplier.update", "Changes a supplier.";
        GetLeadTimes GET "/v1/suppliers/{id}/lead-times" READ_ORDERS, gives Document, "How long a supplier has taken.";
        ListPurchaseOrders GET "/v1/purchase_orders" READ_ORDERS, gives Page, "Purchase orders, newest first.";
        GetPurchaseOrder GET "/v1/purchase_orders/{id}" READ_ORDERS, gives Document, "A purchase order.";
        CreatePurchaseOrder POST "/v1/purchase_orders" WRITE_ORDERS, does "purchase_order.create", "Drafts a purchase order.";
        OrderPurchaseOrder POST "/v1/purchase_orders/{id}/order" WRITE_ORDERS, does "purchase_order.order", "Sends a purchase order to its supplier.";
        ReceivePurchaseOrder POST "/v1/purchase_orders/{id}/receive" WRITE_ORDERS, does "purchase_order.receive", "Takes in goods of a purchase order.";
        ClosePurchaseOrder POST "/v1/purchase_orders/{id}/close" WRITE_ORDERS, does "purchase_order.close", "Ends a purchase order.";
        CancelPurchaseOrder POST "/v1/purchase_orders/{id}/cancel" WRITE_ORDERS, does "purchase_order.cancel", "Drops a purchase order.";
        ListSalesOrders GET "/v1/sales_orders" READ_ORDERS, gives Page, "Sales orders, newest first.";
        GetSalesOrder GET "/v1/sales_orders/{id}" READ_ORDERS, gives Document, "A sales order.";
        CreateSalesOrder POST "/v1/sales_orders" WRITE_ORDERS, does "sales_order.create", "Drafts a sales order.";
        AllocateSalesOrder POST "/v1/sales_orders/{id}/allocate" WRITE_ORDERS, does "sales_order.allocate", "Reserves stock for a sales order.";
        ShipSalesOrder POST "/v1/sales_orders/{id}/ship" WRITE_ORDERS, does "sales_order.ship", "Ships goods of a sales order.";
        CloseSalesOrder POST "/v1/sales_orders/{id}/close" WRITE_ORDERS, does "sales_order.close", "Ends a sales order.";
        CancelSalesOrder POST "/v1/sales_orders/{id}/cancel" WRITE_ORDERS, does "sales_order.cancel", "Drops a sales order.";
        ListTransfers GET "/v1/transfers" READ_STOCK, gives Page, "Transfers, newest first.";
        GetTransfer GET "/v1/transfers/{id}" READ_STOCK, gives Document, "A transfer.";
        CreateTransfer POST "/v1/transfers" WRITE_STOCK, does "transfer.create", "Drafts a transfer.";
        DispatchTransfer POST "/v1/transfers/{id}/dispatch" WRITE_STOCK, does "transfer.dispatch", "Sends a transfer on its way.";
        ReceiveTransfer POST "/v1/transfers/{id}/receive" WRITE_STOCK, does "transfer.receive", "Takes in goods of a transfer.";
        CloseTransfer POST "/v1/transfers/{id}/close" WRITE_STOCK, does "transfer.close", "Ends a transfer.";
        CancelTransfer POST "/v1/transfers/{id}/cancel" WRITE_STOCK, does "transfer.cancel", "Drops a transfer.";
        ListReturns GET "/v1/returns" READ_ORDERS, gives Page, "Returns, newest first.";
        GetReturn GET "/v1/returns/{id}" READ_ORDERS, gives Document, "A return.";
        CreateReturn POST "/v1/returns" WRITE_ORDERS, does "return.create", "Takes goods back.";
        ListAdjustments GET "/v1/adjustments" READ_STOCK, gives Page, "Adjustments, newest first.";
        GetAdjustment GET "/v1/adjustments/{id}" READ_STOCK, gives Document, "An adjustment.";
        CreateAdjustment POST "/v1/adjustments" WRITE_STOCK, does "adjustment.create", "Corrects stock.";
        ListCounts GET "/v1/counts" READ_STOCK, gives Page, "Counts, newest first.";
        GetCount GET "/v1/counts/{id}" READ_STOCK, gives Document, "A count.";
        CreateCount POST "/v1/counts" WRITE_STOCK, does "count.create", "Says what was counted.";
        ListReservations GET "/v1/reservations" READ_ORDERS, gives Page, "Reservations, newest first.";
        GetReservation GET "/v1/reservations/{id}" READ_ORDERS, gives Document, "A reservation.";
        CreateReservation POST "/v1/reservations" WRITE_ORDERS, does "reservation.create", "Holds stock.";
        ReleaseReservation POST "/v1/reservations/{id}/release" WRITE_ORDERS, does "reservation.release", "Lets held stock go.";
        BatchCommands POST "/v1/commands:batch" ANY_WRITE, "Many commands in one request; each needs its own scope.";
        GetCommand GET "/v1/commands/{id}" ANY_OUTCOME, gives Page, "What became of a command.";
        ListStock GET "/v1/stock" READ_STOCK, gives Page, "Levels, now or as of a time.";
        ListLowStock GET "/v1/stock/low" READ_STOCK, gives Page, "Items of which there is no more than their reorder point.";
        ListOpenLines GET "/v1/stock/open" READ_ORDERS, gives Page, "Lines of which something is still to come, to arrive or to go.";
        GetFreshness GET "/v1/freshness" READ_CATALOG, "How far the ledger and its read models are.";
        ListMovements GET "/v1/movements" READ_STOCK, gives Page, "Movements, newest first.";
        GetMovement GET "/v1/movements/{sequence}" READ_STOCK, "A movement, by its number in the ledger.";
        GetMovementProof GET "/v1/movements/{sequence}/proof" READ_LEDGER, "The proof that a movement is in the ledger." refuses NotFound;
        GetCheckpoint GET "/v1/ledger/checkpoint" READ_LEDGER, "The ledger's root and last hash, signed." refuses CheckpointsNotSigned;
        GetLedgerKeys GET "/v1/ledger/keys" READ_LEDGER, "The public keys that checkpoints are signed with.";
        GetVerification GET "/v1/ledger/verification" READ_LEDGER, "Checks a part of the ledger against itself.";
        ListAudit GET "/v1/audit" READ_AUDIT, gives Page, "Who changed what, newest first.";
        ExportAudit GET "/v1/audit/export" READ_AUDIT, gives Page, "An account of changes as lines of JSON, to keep and to check elsewhere.";
        GetAuditCheckpoint GET "/v1/audit/checkpoint" READ_LEDGER, "The end of the account of keys, members and the like, signed." refuses CheckpointsNotSigned;
        ListApiKeys GET "/v1/api-keys" READ_KEYS, gives Page, "API keys, without their secrets.";
        GetApiKey GET "/v1/api-keys/{id}" READ_KEYS, "An API key, without its secret.";
        CreateApiKey POST "/v1/api-keys" WRITE_KEYS, "Makes an API key; its secret is shown this once.";
        RotateApiKey POST "/v1/api-keys/{id}/rotate" WRITE_KEYS, "Makes an API key's successor." refuses KeyNotActive;
        RevokeApiKey DELETE "/v1/api-keys/{id}" WRITE_KEYS, "Ends an API key.";
        ListWebhooks GET "/v1/webhooks" READ_WEBHOOKS, gives Page, "Webhook subscriptions, oldest first.";
        GetWebhook GET "/v1/webhooks/{id}" READ_WEBHOOKS, "A webhook subscription, and what waits for it.";
        RegisterWebhook POST "/v1/webhooks/register" WRITE_WEBHOOKS, "Subscribes a URL to events; its secret is shown this once." refuses LimitReached;
        UpdateWebhook PATCH "/v1/webhooks/{id}" WRITE_WEBHOOKS, "Changes a webhook subscription; disables it, or lets it go on.";
        DeleteWebhook DELETE "/v1/webhooks/{id}" WRITE_WEBHOOKS, "Ends a webhook subscription; what waits for it is dropped.";
        RotateWebhookSecret POST "/v1/webhooks/{id}/rotate" WRITE_WEBHOOKS, "Makes a new secret, shown this once; for a time both sign.";
        TestWebhook POST "/v1/webhooks/{id}/test" WRITE_WEBHOOKS, "Sends the subscription a webhook.test event.";
        ListWebhookDeliveries GET "/v1/webhooks/{id}/deliveries" READ_WEBHOOKS, gives Page, "What was sent and what waits, newest first, with every attempt.";
        GetWebhookDelivery GET "/v1/webhooks/{id}/deliveries/{delivery_id}" READ_WEBHOOKS, gives Document, "A delivery, with every attempt.";
        ReplayWebhookDelivery POST "/v1/webhooks/{id}/deliveries/{delivery_id}/replay" WRITE_WEBHOOKS, "Sends a delivery's event once more." refuses EventGone;
        ReplayWebhook POST "/v1/webhooks/{id}/replay" WRITE_WEBHOOKS, "Sends events once more: from a position of the ledger, of a time, or all dead letters." refuses LimitReached;
        ListWebhookReplays GET "/v1/webhooks/{id}/replays" READ_WEBHOOKS, gives Page, "Replays, newest first.";
        GetWebhookReplay GET "/v1/webhooks/{id}/replays/{replay_id}" READ_WEBHOOKS, "A replay and how far it is.";
        CancelWebhookReplay POST "/v1/webhooks/{id}/replays/{replay_id}/cancel" WRITE_WEBHOOKS, "Ends a replay; what it has queued is taken back.";
        ListenToEvents POST "/v1/webhooks/listen" WRITE_WEBHOOKS, "Keeps a sandbox tenant's events for an hour, to be read without a subscription." refuses SandboxOnly;
        ListEvents GET "/v1/events" READ_WEBHOOKS, gives Page, "Events that are kept, in their order; waits for the next where asked to.";
        ListEventTypes GET "/v1/event_types" Need::Caller, "Every type of event, with its JSON Schema and an example.";
        ListMembers GET "/v1/members" READ_MEMBERS, gives Page, "The people of the tenant.";
        UpdateMember PATCH "/v1/members/{id}" WRITE_MEMBERS, "Gives a person another role." refuses LastAdmin;
        RemoveMember DELETE "/v1/members/{id}" WRITE_MEMBERS, "Removes a person from the tenant." refuses LastAdmin;
        ListInvitations GET "/v1/invitations" READ_MEMBERS, gives Page, "Who is invited.";
        CreateInvitation POST "/v1/invitations" WRITE_MEMBERS, "Invites a person; the token is shown this once." refuses TooManyAttempts;
        RevokeInvitation DELETE "/v1/invitations/{id}" WRITE_MEMBERS, "Takes an invitation back.";
        ListIdentityProviders GET "/v1/identity-providers" READ_MEMBERS, gives Page, "Identity providers, without their secrets.";
        GetIdentityProvider GET "/v1/identity-providers/{id}" READ_MEMBERS, "An identity provider, without its secret.";
        CreateIdentityProvider POST "/v1/identity-providers" WRITE_MEMBERS, "Lets people sign on with an identity provider.";
        UpdateIdentityProvider PATCH "/v1/identity-providers/{id}" WRITE_MEMBERS, "Changes an identity provider; disabled, its people's sessions end." refuses LastAdmin;
        DeleteIdentityProvider DELETE "/v1/identity-providers/{id}" WRITE_MEMBERS, "Removes an identity provider and its people." refuses LastAdmin;
        GetPlan GET "/v1/plan" READ_BILLING, "The tenant's plan and its limits.";
        GetMe GET "/v1/me" Need::Caller, "Who calls, and what it may do.";
        LogOut POST "/v1/auth/logout" Need::Person, "Ends the session.";
        ChangePassword POST "/v1/auth/password" Need::Person, "Changes the password; every other session ends." refuses InvalidCredentials TooManyAttempts;
    }
    open {
        SignUp POST "/v1/auth/signup" "Makes a tenant, its sandbox and its first admin." refuses EmailTaken TooManyAttempts Overloaded;
        LogIn POST "/v1/auth/login" "Signs a person in." refuses InvalidCredentials TooManyAttempts Forbidden Overloaded;
        RefreshSession POST "/v1/auth/refresh" "Gives new tokens for a refresh token, which works once." refuses InvalidToken TooManyAttempts;
        AcceptInvitation POST "/v1/auth/invitations/accept" "Joins the tenant that an invitation is from." refuses InvalidToken InvalidCredentials EmailTaken Duplicate TooManyAttempts Overloaded;
        ForgetPassword POST "/v1/auth/password-forgotten" "Mails a token for a new password to who has the address, if anybody has." refuses TooManyAttempts MailNotSent;
        ResetPassword POST "/v1/auth/password-reset" "Sets a new password with a token that was mailed, or that the operator made." refuses InvalidToken TooManyAttempts Overloaded;
        StartSignOn GET "/v1/auth/sso/{id}/start" "Sends the browser to an identity provider." refuses IdentityProviderUnavailable TooManyAttempts;
        FinishSignOn GET "/v1/auth/sso/callback" "Signs on whom the identity provider sends back." refuses SignOnNotOpen SignOnFailed SignOnDenied IdentityProviderUnavailable;
        FinishSamlSignOn POST "/v1/auth/sso/saml/acs" "Signs on whom an identity provider sends back by SAML, where the server is built with it." refuses InvalidQuery NotFound SignOnNotOpen SignOnFailed SignOnDenied;
        GetSamlMetadata GET "/v1/auth/sso/{id}/metadata" "What an identity provider of SAML is to know of us.";
        GetJwks GET "/.well-known/jwks.json" "The public keys that access tokens are signed with (RFC 7517).";
    }
}

/// The scopes of which a kind of command needs one.
#[must_use]
pub fn need_of_command(name: &str) -> Option<Need> {
    let sends = |endpoint: &&EndpointInfo| endpoint.command.is_some_and(|command| command.name == name);
    ENDPOINTS.iter().find(sends).map(|endpoint| endpoint.need)
}

/// The scopes that let read documents of a kind.
#[must_use]
pub fn read_scopes(kind: EntityKind) -> Scopes {
    let path = format!("/v1/{}", kind.collection());
    let reads = ENDPOINTS.iter().filter(|endpoint| endpoint.path == path && endpoint.method == Method::GET);
    let any = reads.flat_map(|endpoint| if let Need::OneOf(any) = endpoint.need { any } else { &[] });
    any.copied().collect()
}

/// True where scopes let see documents of a kind: to read them, or to make them, since who makes one is answered with it.
#[must_use]
pub fn may_see(scopes: Scopes, kind: EntityKind) -> bool {
    let path = format!("/v1/{}", kind.collection());
    ENDPOINTS.iter().filter(|endpoint| endpoint.path == path).any(|endpoint| endpoint.need.is_met_by(scopes))
}

/// The table as a page of the documentation.
#[must_use]
pub fn to_markdown() -> String {
    let mark = |scope: Scope, role: Role| if scope.roles().contains(&role) { " ✓ |" } else { " |" };
    let mut page = String::from(
        "# Access\n\nA caller is an API key or a person who signed in. Either has a role in the tenant, and a role has scopes; a key \
         can be given fewer. An endpoint needs one scope. What it lacks it is told: `403 FORBIDDEN`, with the scopes of which one \
         would do.\n\n## Scopes and roles\n\n| scope | |",
    );
    for role in Role::ALL {
        page.push_str(&format!(" `{role}` |"));
    }
    page.push_str("\n|---|---|");
    page.push_str(&":-:|".repeat(Role::ALL.len()));
    for scope in Scope::ALL {
        page.push_str(&format!("\n| `{scope}` | {} |", scope.meaning()));
        for role in Role::ALL {
            page.push_str(mark(*scope, *role));
        }
    }
    page.push_str("\n\n## Endpoints\n\nA `GET` answers `HEAD` too.\n\n| endpoint | needs | |\n|---|---|---|\n");
    for endpoint in ENDPOINTS {
        let need = match endpoint.need {
            Need::Nobody => "–".to_owned(),
            Need::Caller => "any caller".to_owned(),
            Need::Person => "a person".to_owned(),
            Need::OneOf(any) => any.iter().map(|scope| format!("`{scope}`")).collect::<Vec<_>>().join(" or "),
        };
        page.push_str(&format!("| {} `{}` | {need} | {} |\n", endpoint.method, endpoint.path, endpoint.summary));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_endpoints_are_the_same() {
        let paths: BTreeSet<_> = ENDPOINTS.iter().map(|e| (e.method.as_str(), e.path)).collect();
        let names: BTreeSet<_> = ENDPOINTS.iter().map(|e| e.name).collect();
        assert_eq!((paths.len(), names.len()), (ENDPOINTS.len(), ENDPOINTS.len()));
    }

    #[test]
    fn no_list_is_read_without_room_being_kept_for_it() {
        for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.method == Method::GET) {
            let lists = endpoint.name.starts_with("List")
                || endpoint.name.starts_with("Search")
                || endpoint.name.starts_with("Export");
            // The types of events are known to the program.
            let has_rows = lists && endpoint.name != "ListEventTypes";
            assert_eq!(
                has_rows || endpoint.name == "GetCommand",
                endpoint.gives == AnswerSize::Page,
                "{}",
                endpoint.name
            );
        }
    }

    #[test]
    fn an_admin_may_do_everything_and_a_reader_changes_nothing() {
        let (admin, reader) = (Scopes::of_role(Role::Admin), Scopes::of_role(Role::ReadOnly));
        for endpoint in ENDPOINTS {
            assert!(endpoint.need.is_met_by(admin), "{}", endpoint.path);
            let own_session = matches!(endpoint.need, Need::Nobody | Need::Person);
            if endpoint.method != Method::GET && !own_session {
                assert!(!endpoint.need.is_met_by(reader), "{} {}", endpoint.method, endpoint.path);
            }
        }
    }

    #[test]
    fn a_key_has_no_more_than_its_role_whatever_it_is_narrowed_to() {
        let of = |role, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Scopes::of_key(role, Some(&names))
        };
        assert_eq!(Scopes::of_key(Role::Dev, None), Scopes::of_role(Role::Dev));
        assert_eq!(of(Role::Dev, &["read:keys", "write:members", "no:scope"]).names(), ["read:keys"]);
        assert!(of(Role::Dev, &[]).is_empty());
    }

    #[test]
    fn documents_of_a_kind_are_seen_by_those_who_read_or_write_them_and_nobody_else() {
        for kind in EntityKind::ALL {
            let seen_by: Vec<_> =
                Scope::ALL.iter().filter(|scope| may_see([**scope].into_iter().collect(), *kind)).collect();
            let [read, write] = seen_by.as_slice() else { panic!("{}: {seen_by:?}", kind.name()) };
            assert!(read.name().starts_with("read:") && write.name().starts_with("write:"), "{seen_by:?}");
            assert_eq!(read.name().split(':').nth(1), write.name().split(':').nth(1), "{}", kind.name());
            assert_eq!(read_scopes(*kind).names(), [read.name()]);
        }
        assert!(!may_see([Scope::ReadLedger, Scope::WriteOrders].into_iter().collect(), EntityKind::Item));
        assert!(!may_see(Scopes::default(), EntityKind::Count));
    }

    #[test]
    fn the_page_of_access_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/access.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, to_markdown()).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == to_markdown(),
            "docs/access.md is not current: run the tests with UPDATE_DOCS=1"
        );
    }
}
