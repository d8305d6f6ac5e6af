"""One order from receipt to shipment, with the client that is made from the API's description.

TWH_URL and TWH_API_KEY say where and as whom.
"""

import os
import uuid

from twh_client import AuthenticatedClient
from twh_client.api.items import create_item
from twh_client.api.locations import create_location
from twh_client.api.purchase_orders import create_purchase_order, order_purchase_order, receive_purchase_order
from twh_client.api.sales_orders import allocate_sales_order, create_sales_order, ship_sales_order
from twh_client.api.stock import list_stock
from twh_client.models import (
    AllocateSalesOrder,
    CreateItem,
    CreateLocation,
    CreatePurchaseOrder,
    CreateSalesOrder,
    Error,
    PlacePurchaseOrder,
    PurchaseLine,
    ReceivePurchaseOrder,
    SalesLine,
    ShipSalesOrder,
)

client = AuthenticatedClient(base_url=os.environ["TWH_URL"], token=os.environ["TWH_API_KEY"])


def key() -> str:
    return str(uuid.uuid4())


def done(answer):
    assert not isinstance(answer, Error) and answer is not None, answer
    return answer


done(create_item.sync(client=client, idempotency_key=key(), body=CreateItem(sku="WIDGET", name="Widget")))
done(create_location.sync(client=client, idempotency_key=key(), body=CreateLocation(code="LEEDS")))

bought = CreatePurchaseOrder(location_code="LEEDS", lines=[PurchaseLine(sku="WIDGET", quantity="10")])
purchase = done(create_purchase_order.sync(client=client, idempotency_key=key(), body=bought))
done(order_purchase_order.sync(purchase.id, client=client, idempotency_key=key(), body=PlacePurchaseOrder()))
done(receive_purchase_order.sync(purchase.id, client=client, idempotency_key=key(), body=ReceivePurchaseOrder()))

sold = CreateSalesOrder(location_code="LEEDS", lines=[SalesLine(sku="WIDGET", quantity=4)])
order = done(create_sales_order.sync(client=client, idempotency_key=key(), body=sold))
done(allocate_sales_order.sync(order.id, client=client, idempotency_key=key(), body=AllocateSalesOrder()))
shipped = done(ship_sales_order.sync(order.id, client=client, idempotency_key=key(), body=ShipSalesOrder()))
assert shipped.status.value == "shipped", shipped

too_many = CreateSalesOrder(location_code="LEEDS", lines=[SalesLine(sku="WIDGET", quantity="7")])
order = done(create_sales_order.sync(client=client, idempotency_key=key(), body=too_many))
refused = allocate_sales_order.sync(order.id, client=client, idempotency_key=key(), body=AllocateSalesOrder())
assert isinstance(refused, Error) and refused.code.value == "INSUFFICIENT_STOCK", refused

(level,) = done(list_stock.sync(client=client, sku="WIDGET")).data
assert (level.qty_on_hand, level.qty_reserved, level.available) == ("6", "0", "6"), level
print("shipped 4 of 10, 6 are left")
