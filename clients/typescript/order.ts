// One order from receipt to shipment, with the client that is made from the API's description.
//
// TWH_URL and TWH_API_KEY say where and as whom.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { env: Record<string, string | undefined> };

const client = createClient<paths>({
  baseUrl: process.env.TWH_URL!,
  headers: { Authorization: `Bearer ${process.env.TWH_API_KEY}` },
});

type Refused = components["schemas"]["Error"];

const header = () => ({ "Idempotency-Key": crypto.randomUUID() });

function done<T>(answer: { data?: T; error?: Refused }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

/** The id of what was made. */
function id(made: { id: string } | components["schemas"]["PendingCommand"]): string {
  if ("id" in made) return made.id;
  throw new Error(`${made.command_id} is not decided yet`);
}

function equal(actual: unknown, expected: unknown): void {
  if (JSON.stringify(actual) !== JSON.stringify(expected)) {
    throw new Error(`${JSON.stringify(actual)} is not ${JSON.stringify(expected)}`);
  }
}

done(await client.POST("/v1/items", { params: { header: header() }, body: { sku: "WIDGET", name: "Widget" } }));
done(await client.POST("/v1/locations", { params: { header: header() }, body: { code: "LEEDS" } }));

const bought = { location_code: "LEEDS", lines: [{ sku: "WIDGET", quantity: "10" }] };
const purchase = id(done(await client.POST("/v1/purchase_orders", { params: { header: header() }, body: bought })));
const ofPurchase = () => ({ params: { path: { id: purchase }, header: header() }, body: {} });
done(await client.POST("/v1/purchase_orders/{id}/order", ofPurchase()));
done(await client.POST("/v1/purchase_orders/{id}/receive", ofPurchase()));

const sold = { location_code: "LEEDS", lines: [{ sku: "WIDGET", quantity: 4 }] };
const order = id(done(await client.POST("/v1/sales_orders", { params: { header: header() }, body: sold })));
const ofOrder = () => ({ params: { path: { id: order }, header: header() }, body: {} });
done(await client.POST("/v1/sales_orders/{id}/allocate", ofOrder()));
const shipped = done(await client.POST("/v1/sales_orders/{id}/ship", ofOrder()));
if (!("lines" in shipped)) throw new Error("the shipment is not decided yet");
equal(shipped.status, "shipped");

const tooMany = { location_code: "LEEDS", lines: [{ sku: "WIDGET", quantity: "7" }] };
const another = id(done(await client.POST("/v1/sales_orders", { params: { header: header() }, body: tooMany })));
const refused = await client.POST("/v1/sales_orders/{id}/allocate", {
  params: { path: { id: another }, header: header() },
  body: {},
});
equal(refused.error?.code, "INSUFFICIENT_STOCK");

const stock = done(await client.GET("/v1/stock", { params: { query: { sku: "WIDGET" } } }));
equal(
  stock.data.map((level) => [level.qty_on_hand, level.qty_reserved, level.available]),
  [["6", "0", "6"]],
);
console.log("shipped 4 of 10, 6 are left");
