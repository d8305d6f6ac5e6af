//! What a command will probably look at, so that a batch loads it in a handful of set-based queries.
//!
//! A hint only: what it misses, `decide` asks for; what it names in vain costs a look-up.

use crate::command::{Command, ItemRef, LocationRef, NamesItem, NamesLocation, Operation, Payload};
use crate::entity::{CodeKey, CodeSpace, Entity, EntityKey, EntityKind, LevelKey, number_from_id};
use crate::id::{ItemId, LocationId, TenantId};
use crate::state::{IdempotencyKey, Need, State};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Adds to `needs` what the command touches and `state` has not loaded. Call again after loading: what was loaded
/// (an order, the id behind a SKU) names further things. Nothing added means all is there.
pub fn prefetch(state: &State, command: &Command, needs: &mut Needs) {
    let mut walk = Walk { state, tenant: command.tenant_id, needs };
    walk.need(Need::Head(command.tenant_id));
    walk.made_anew(Need::Outcome(IdempotencyKey { tenant: command.tenant_id, key: command.idempotency_key.clone() }));
    for operation in &command.operations {
        walk.operation(operation);
    }
}

/// What a batch of commands will probably look at.
#[derive(Debug, Default)]
pub struct Needs {
    /// To be loaded.
    pub load: BTreeSet<Need>,
    /// What is new in all but rare cases: Idempotency-Keys, but where a client repeats itself; ids that the edge has made, and
    /// numbers made of them, but where a command was put on the log by hand. Who has unique keys to fall back on takes it
    /// for absent; who has none loads it too.
    pub made_anew: BTreeSet<Need>,
}

struct Walk<'a> {
    state: &'a State,
    tenant: TenantId,
    needs: &'a mut Needs,
}

impl<'a> Walk<'a> {
    fn need(&mut self, need: Need) {
        if !self.state.has(&need) {
            self.needs.load.insert(need);
        }
    }

    fn made_anew(&mut self, need: Need) {
        if !self.state.has(&need) {
            self.needs.made_anew.insert(need);
        }
    }

    fn entity(&mut self, kind: EntityKind, id: Uuid) -> Option<&'a Entity> {
        let key = EntityKey { tenant: self.tenant, kind, id };
        self.need(Need::Entity(key));
        self.state.entity(&key).ok().flatten().map(AsRef::as_ref)
    }

    fn code(&mut self, space: CodeSpace, code: &str) -> Option<Uuid> {
        let key = CodeKey { tenant: self.tenant, space, code: code.to_owned() };
        let found = self.state.code(&key).ok().flatten();
        self.need(Need::Code(key));
        found
    }

    fn item(&mut self, reference: Option<ItemRef<'_>>) -> Option<ItemId> {
        let id = match reference? {
            ItemRef::Id(id) => id.0,
            ItemRef::Sku(sku) => self.code(CodeSpace::Entity(EntityKind::Item), sku)?,
        };
        self.entity(EntityKind::Item, id);
        Some(ItemId(id))
    }

    fn location(&mut self, reference: Option<LocationRef<'_>>) -> Option<LocationId> {
        let id = match reference? {
            LocationRef::Id(id) => id.0,
            LocationRef::Code(code) => self.code(CodeSpace::Entity(EntityKind::Location), code)?,
        };
        self.entity(EntityKind::Location, id);
        Some(LocationId(id))
    }

    fn level(&mut self, item: Option<ItemId>, location: Option<LocationId>) {
        if let (Some(item), Some(location)) = (item, location) {
            self.need(Need::Level(LevelKey { tenant: self.tenant, item, location }));
        }
    }

    /// A new document: its id is free, and so is its number.
    fn fresh(&mut self, kind: EntityKind, operation: &Operation, code: Option<&str>, prefix: &str) {
        let (tenant, id) = (self.tenant, operation.subject);
        self.made_anew(Need::Entity(EntityKey { tenant, kind, id }));
        match code {
            Some(code) => {
                self.code(CodeSpace::Entity(kind), code);
            }
            None => {
                let code = number_from_id(prefix, id);
                self.made_anew(Need::Code(CodeKey { tenant, space: CodeSpace::Entity(kind), code }));
            }
        }
    }

    /// The items and levels of the lines of a new document.
    fn lines<L: NamesItem>(&mut self, lines: &[L], location: Option<LocationId>) {
        for line in lines {
            let item = self.item(line.item_ref());
            self.level(item, location);
        }
    }

    /// A document acted upon, and the levels of its lines. A document made earlier in the same batch is not loaded
    /// yet; its levels were named when it was made.
    fn document(&mut self, kind: EntityKind, id: Uuid) {
        let levels: Vec<_> = match self.entity(kind, id) {
            Some(Entity::PurchaseOrder(order)) => {
                order.lines.iter().map(|line| (line.item_id, order.location_id)).collect()
            }
            Some(Entity::SalesOrder(order)) => {
                order.lines.iter().map(|line| (line.item_id, line.location_id)).collect()
            }
            Some(Entity::Transfer(transfer)) => {
                let places = [transfer.from_location_id, transfer.to_location_id];
                transfer.lines.iter().flat_map(|line| places.map(|place| (line.item_id, place))).collect()
            }
            Some(Entity::Reservation(reservation)) => vec![(reservation.item_id, reservation.location_id)],
            _ => Vec::new(),
        };
        for (item, location) in levels {
            self.level(Some(item), Some(location));
            self.entity(EntityKind::Location, location.0);
        }
    }

    fn operation(&mut self, operation: &Operation) {
        let subject = operation.subject;
        match &operation.payload {
            Payload::CreateItem(body) => {
                self.fresh(EntityKind::Item, operation, Some(&body.sku), "");
                for barcode in &body.barcodes {
                    self.code(CodeSpace::Barcode, barcode);
                }
            }
            Payload::UpdateItem(body) => {
                self.document(EntityKind::Item, subject);
                for barcode in body.barcodes.iter().flatten() {
                    self.code(CodeSpace::Barcode, barcode);
                }
            }
            Payload::CreateLocation(body) => self.fresh(EntityKind::Location, operation, Some(&body.code), ""),
            Payload::UpdateLocation(_) => self.document(EntityKind::Location, subject),
            Payload::CreateSupplier(body) => self.fresh(EntityKind::Supplier, operation, Some(&body.code), ""),
            Payload::UpdateSupplier(_) => self.document(EntityKind::Supplier, subject),
            Payload::CreatePurchaseOrder(body) => {
                self.fresh(EntityKind::PurchaseOrder, operation, body.number.as_deref(), "PO");
                if let Some(supplier) = body.supplier_id {
                    self.entity(EntityKind::Supplier, supplier.0);
                }
                let location = self.location(body.location_ref());
                self.lines(&body.lines, location);
            }
            Payload::PlacePurchaseOrder(_)
            | Payload::ReceivePurchaseOrder(_)
            | Payload::ClosePurchaseOrder(_)
            | Payload::CancelPurchaseOrder(_) => self.document(EntityKind::PurchaseOrder, subject),
            Payload::CreateSalesOrder(body) => {
                self.fresh(EntityKind::SalesOrder, operation, body.number.as_deref(), "SO");
                let location = self.location(body.location_ref());
                for line in &body.lines {
                    let item = self.item(line.item_ref());
                    let own = self.location(line.own_location());
                    self.level(item, own.or(location));
                }
            }
            Payload::AllocateSalesOrder(_)
            | Payload::ShipSalesOrder(_)
            | Payload::CloseSalesOrder(_)
            | Payload::CancelSalesOrder(_) => self.document(EntityKind::SalesOrder, subject),
            Payload::CreateTransfer(body) => {
                self.fresh(EntityKind::Transfer, operation, body.number.as_deref(), "TR");
                for place in [body.from(), body.to()] {
                    let location = self.location(place);
                    self.lines(&body.lines, location);
                }
            }
            Payload::DispatchTransfer(_)
            | Payload::ReceiveTransfer(_)
            | Payload::CloseTransfer(_)
            | Payload::CancelTransfer(_) => {
                self.document(EntityKind::Transfer, subject);
            }
            Payload::CreateReturn(body) => {
                self.fresh(EntityKind::Return, operation, body.number.as_deref(), "RET");
                let location = self.location(body.location_ref());
                self.lines(&body.lines, location);
                if let Some(order) = body.sales_order_id
                    && let Some(Entity::SalesOrder(order)) = self.entity(EntityKind::SalesOrder, order.0)
                {
                    for line in &order.lines {
                        self.level(Some(line.item_id), location);
                    }
                }
            }
            Payload::CreateAdjustment(body) => {
                self.fresh(EntityKind::Adjustment, operation, body.number.as_deref(), "ADJ");
                let location = self.location(body.location_ref());
                self.lines(&body.lines, location);
            }
            Payload::CreateCount(body) => {
                self.fresh(EntityKind::Count, operation, body.number.as_deref(), "CNT");
                let location = self.location(body.location_ref());
                self.lines(&body.lines, location);
            }
            Payload::CreateReservation(body) => {
                let (tenant, kind) = (self.tenant, EntityKind::Reservation);
                self.made_anew(Need::Entity(EntityKey { tenant, kind, id: subject }));
                let item = self.item(body.item_ref());
                let location = self.location(body.location_ref());
                self.level(item, location);
            }
            Payload::ReleaseReservation(_) | Payload::ExpireReservation(_) => {
                self.document(EntityKind::Reservation, subject)
            }
            Payload::ReportLowStock(_) => self.document(EntityKind::Item, subject),
        }
    }
}
