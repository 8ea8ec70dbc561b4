PRAGMA application_id = 1380273241;
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0021');
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	actor TEXT NOT NULL, 
	token_id VARCHAR(8), 
	tenant VARCHAR(64), 
	address TEXT NOT NULL, 
	verb VARCHAR(32) NOT NULL, 
	object TEXT NOT NULL, 
	"before" TEXT, 
	"after" TEXT, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE counters (
	migration_id VARCHAR(36) NOT NULL, 
	kind VARCHAR(12) NOT NULL, 
	name VARCHAR(16) NOT NULL, 
	amount BIGINT NOT NULL, 
	PRIMARY KEY (migration_id, kind, name), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "counters" VALUES('f8059f27-63c5-41bb-9e86-ae063defa4bf','level','whole_digest',1);
INSERT INTO "counters" VALUES('f8059f27-63c5-41bb-9e86-ae063defa4bf','resent','',7);
INSERT INTO "counters" VALUES('f8059f27-63c5-41bb-9e86-ae063defa4bf','retries','',1);
CREATE TABLE deletions (
	id INTEGER NOT NULL, 
	migration_id VARCHAR(36) NOT NULL, 
	side VARCHAR(12) NOT NULL, 
	hash VARCHAR(32) NOT NULL, 
	name TEXT NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	version TEXT NOT NULL, 
	basis VARCHAR(32), 
	reason VARCHAR(32), 
	detail TEXT, 
	marker TEXT, 
	note VARCHAR(32), 
	at FLOAT NOT NULL, 
	undone FLOAT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	migration_id VARCHAR(36) NOT NULL, 
	at FLOAT NOT NULL, 
	kind VARCHAR(24) NOT NULL, 
	members TEXT NOT NULL, tx BIGINT DEFAULT 0 NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "events" VALUES(1,'f8059f27-63c5-41bb-9e86-ae063defa4bf',1.79559793040499782561e+09,'accepted','{}',0);
INSERT INTO "events" VALUES(2,'f8059f27-63c5-41bb-9e86-ae063defa4bf',1.79559793041210794452e+09,'listing_done','{}',0);
CREATE TABLE keys (
	name VARCHAR(32) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "keys" VALUES('identity','1cad571ad0b845455836c63f51ea1de23dfc9f109fbd7bb15d59117b6ba3b64a');
CREATE TABLE links (
	migration_id VARCHAR(36) NOT NULL, 
	mark VARCHAR(32) NOT NULL, 
	path TEXT NOT NULL, 
	target TEXT NOT NULL, 
	PRIMARY KEY (migration_id, mark), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
CREATE TABLE live (
	runner VARCHAR(36) NOT NULL, 
	at FLOAT NOT NULL, 
	members TEXT NOT NULL, 
	PRIMARY KEY (runner), 
	FOREIGN KEY(runner) REFERENCES runners (id) ON DELETE CASCADE
);
CREATE TABLE migrations (
	id VARCHAR(36) NOT NULL, 
	number INTEGER NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	source TEXT NOT NULL, 
	destination TEXT NOT NULL, 
	options TEXT NOT NULL, 
	spec VARCHAR(64) NOT NULL, 
	"key" VARCHAR(255), 
	priority INTEGER DEFAULT 0 NOT NULL, 
	listing VARCHAR(12) NOT NULL, 
	listing_owner VARCHAR(36), 
	listing_fence INTEGER DEFAULT 0 NOT NULL, 
	cursor TEXT, 
	destination_empty BOOLEAN DEFAULT false NOT NULL, 
	error TEXT, 
	created FLOAT NOT NULL, 
	ended FLOAT, slots INTEGER, bytes_per_second BIGINT, connections INTEGER, renewed INTEGER DEFAULT 0 NOT NULL, places VARCHAR(64), owner VARCHAR(64), runner VARCHAR(12), listings INTEGER DEFAULT 0 NOT NULL, listing_lapses INTEGER DEFAULT 0 NOT NULL, entries BIGINT, looked FLOAT, token VARCHAR(8), place TEXT, tenant VARCHAR(64) DEFAULT 'default' NOT NULL, ordinal BIGINT, needs_attention BOOLEAN DEFAULT false NOT NULL, excluded BIGINT, phase VARCHAR(12), every FLOAT, hours VARCHAR(16), due FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (number), 
	UNIQUE ("key")
);
INSERT INTO "migrations" VALUES('f8059f27-63c5-41bb-9e86-ae063defa4bf',1,'running','a:photos','b:photos','{"recursive": true, "verify": "auto", "if_exists": "changed"}','99d0d45893668ed29e991da8c467efe42d9ae88d3ff16cebddb8b32023a89b6a',NULL,3,'done',NULL,1,'two.bin',0,NULL,1.79559793040419220927e+09,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,'default',1,0,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE parts (
	transfer_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	size BIGINT NOT NULL, 
	etag TEXT NOT NULL, 
	digest VARCHAR(16) NOT NULL, 
	checked BOOLEAN NOT NULL, owner VARCHAR(36), 
	PRIMARY KEY (transfer_id, number), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
);
INSERT INTO "parts" VALUES(3,1,11,'"p1"','0123456789abcdef',1,NULL);
INSERT INTO "parts" VALUES(3,2,0,'','',0,'a8b99ca6-324a-431b-ab12-ec5ecfc8b229');
CREATE TABLE passes (
	migration_id VARCHAR(36) NOT NULL, 
	number INTEGER NOT NULL, 
	kind VARCHAR(12) NOT NULL, 
	begun FLOAT NOT NULL, 
	listed_at FLOAT, 
	ended FLOAT, 
	complete BOOLEAN, 
	listing INTEGER, 
	listed BIGINT DEFAULT 0 NOT NULL, 
	known BIGINT DEFAULT 0 NOT NULL, 
	changed BIGINT DEFAULT 0 NOT NULL, 
	gone BIGINT DEFAULT 0 NOT NULL, 
	copied BIGINT DEFAULT 0 NOT NULL, 
	bytes BIGINT DEFAULT 0 NOT NULL, 
	deleted BIGINT DEFAULT 0 NOT NULL, 
	refused BIGINT DEFAULT 0 NOT NULL, 
	failed BIGINT DEFAULT 0 NOT NULL, 
	p50 FLOAT, 
	p90 FLOAT, 
	outcome TEXT, 
	PRIMARY KEY (migration_id, number), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
CREATE TABLE plan_secrets (
	plan_id VARCHAR(36) NOT NULL, 
	locations TEXT NOT NULL, 
	PRIMARY KEY (plan_id), 
	FOREIGN KEY(plan_id) REFERENCES plans (id) ON DELETE CASCADE
);
CREATE TABLE plans (
	number INTEGER NOT NULL, 
	id VARCHAR(36) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	runner VARCHAR(12) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	source TEXT NOT NULL, 
	destination TEXT NOT NULL, 
	options TEXT NOT NULL, 
	limits TEXT NOT NULL, 
	"key" VARCHAR(64), 
	owner VARCHAR(36), 
	fence INTEGER DEFAULT 0 NOT NULL, 
	lapses INTEGER DEFAULT 0 NOT NULL, 
	report TEXT, 
	error TEXT, 
	migration_id VARCHAR(36), 
	created FLOAT NOT NULL, 
	ended FLOAT, 
	PRIMARY KEY (number), 
	UNIQUE (id), 
	UNIQUE ("key"), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE SET NULL
);
CREATE TABLE reasons (
	migration_id VARCHAR(36) NOT NULL, 
	reason VARCHAR(128) NOT NULL, 
	side VARCHAR(16) NOT NULL, 
	code VARCHAR(64) NOT NULL, 
	status INTEGER, 
	objects BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	sample TEXT NOT NULL, 
	PRIMARY KEY (migration_id, reason), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
CREATE TABLE receipts (
	transfer_id INTEGER NOT NULL, 
	receipt TEXT NOT NULL, 
	PRIMARY KEY (transfer_id), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
);
INSERT INTO "receipts" VALUES(1,'{"level":"whole_digest"}');
CREATE TABLE removals (
	migration_id VARCHAR(36) NOT NULL, 
	kind VARCHAR(8) NOT NULL, 
	settings TEXT NOT NULL, 
	state VARCHAR(8) NOT NULL, 
	changed FLOAT NOT NULL, 
	PRIMARY KEY (migration_id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
CREATE TABLE runners (
	id VARCHAR(36) NOT NULL, 
	host TEXT NOT NULL, 
	boot VARCHAR(64) NOT NULL, 
	process VARCHAR(64) NOT NULL, 
	until FLOAT NOT NULL, slots INTEGER, 
	PRIMARY KEY (id)
);
INSERT INTO "runners" VALUES('a8b99ca6-324a-431b-ab12-ec5ecfc8b229','somewhere','00000000-0000-0000-0000-000000000000','1.1',35610.577923094,NULL);
CREATE TABLE samples (
	migration_id VARCHAR(36) NOT NULL, 
	at BIGINT NOT NULL, 
	runner VARCHAR(36) NOT NULL, 
	step INTEGER NOT NULL, 
	moved BIGINT NOT NULL, 
	read_back BIGINT NOT NULL, 
	objects BIGINT NOT NULL, 
	slots TEXT NOT NULL, 
	PRIMARY KEY (migration_id, at, runner), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
CREATE TABLE secrets (
	migration_id VARCHAR(36) NOT NULL, 
	locations TEXT NOT NULL, 
	PRIMARY KEY (migration_id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "secrets" VALUES('f8059f27-63c5-41bb-9e86-ae063defa4bf','{"source": {"text": "a:photos", "headers": [], "method": null}, "destination": {"text": "b:photos", "headers": [], "method": null}}');
CREATE TABLE sessions (
	id VARCHAR(64) NOT NULL, 
	token_id VARCHAR(8), 
	token_hash VARCHAR(64) NOT NULL, 
	created FLOAT NOT NULL, 
	seen FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(token_id) REFERENCES tokens (id) ON DELETE CASCADE
);
CREATE TABLE sign_ins (
	id INTEGER NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE stage_counts (
	tenant VARCHAR(64) NOT NULL, 
	runner VARCHAR(12) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	needs_attention BOOLEAN NOT NULL, 
	migrations BIGINT NOT NULL, 
	PRIMARY KEY (tenant, runner, state, needs_attention)
);
INSERT INTO "stage_counts" VALUES('default','','running',0,1);
CREATE TABLE tallies (
	migration_id VARCHAR(36) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	objects BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	PRIMARY KEY (migration_id, state), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "tallies" VALUES('f8059f27-63c5-41bb-9e86-ae063defa4bf','queued',1,30);
INSERT INTO "tallies" VALUES('f8059f27-63c5-41bb-9e86-ae063defa4bf','running',1,20);
INSERT INTO "tallies" VALUES('f8059f27-63c5-41bb-9e86-ae063defa4bf','verified',1,10);
CREATE TABLE tokens (
	id VARCHAR(8) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	scope VARCHAR(8) NOT NULL, 
	limits TEXT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	previous VARCHAR(64), 
	previous_until FLOAT, 
	created FLOAT NOT NULL, 
	expires FLOAT, 
	last_used FLOAT, 
	revoked FLOAT, 
	PRIMARY KEY (id)
);
CREATE TABLE transfers (
	id INTEGER NOT NULL, 
	migration_id VARCHAR(36) NOT NULL, 
	name TEXT NOT NULL, 
	url TEXT, 
	size BIGINT, 
	etag TEXT, 
	modified FLOAT, 
	state VARCHAR(12) NOT NULL, 
	owner VARCHAR(36), 
	fence INTEGER DEFAULT 0 NOT NULL, 
	attempts INTEGER DEFAULT 0 NOT NULL, 
	lapses INTEGER DEFAULT 0 NOT NULL, 
	not_before FLOAT DEFAULT 0 NOT NULL, 
	bytes BIGINT, 
	resent BIGINT DEFAULT 0 NOT NULL, 
	seconds FLOAT, 
	level VARCHAR(16), 
	error TEXT, 
	ended FLOAT, digests TEXT, identity VARCHAR(32), listings INTEGER DEFAULT 0 NOT NULL, "before" TEXT, folded TEXT, twins INTEGER DEFAULT 0 NOT NULL, reason VARCHAR(128), written TEXT, planned TEXT, 
	PRIMARY KEY (id), 
	UNIQUE (migration_id, name), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "transfers" VALUES(1,'f8059f27-63c5-41bb-9e86-ae063defa4bf','one.bin',NULL,10,'"1"',1.5,'verified',NULL,2,2,0,0.0,10,7,0.5,'whole_digest',NULL,1.79559793041990065575e+09,'{"md5": "00000000000000000000000000000000"}',NULL,0,NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO "transfers" VALUES(2,'f8059f27-63c5-41bb-9e86-ae063defa4bf','three.bin',NULL,30,'"3"',1.5,'queued',NULL,1,1,0,0.0,NULL,0,NULL,NULL,NULL,NULL,'{"md5": "00000000000000000000000000000000"}',NULL,0,'{"known": false, "version": null, "sent": null}',NULL,0,NULL,NULL,NULL);
INSERT INTO "transfers" VALUES(3,'f8059f27-63c5-41bb-9e86-ae063defa4bf','two.bin',NULL,20,'"2"',1.5,'running','a8b99ca6-324a-431b-ab12-ec5ecfc8b229',1,1,0,0.0,NULL,0,NULL,NULL,NULL,NULL,'{"md5": "00000000000000000000000000000000"}',NULL,0,'{"known": false, "version": null, "sent": null}',NULL,0,NULL,NULL,NULL);
CREATE TABLE uploads (
	transfer_id INTEGER NOT NULL, 
	upload_id TEXT NOT NULL, 
	checked BOOLEAN NOT NULL, 
	place TEXT NOT NULL, 
	etag TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	part_bytes BIGINT NOT NULL, 
	digest TEXT, 
	begun FLOAT NOT NULL, pinned TEXT, digested BOOLEAN DEFAULT true NOT NULL, total INTEGER DEFAULT 0 NOT NULL, next INTEGER DEFAULT 1 NOT NULL, there BIGINT DEFAULT 0 NOT NULL, 
	PRIMARY KEY (transfer_id), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
);
INSERT INTO "uploads" VALUES(3,'upload-1',1,'b:photos/two.bin','"2"',20,11,NULL,1.7955979304216923714e+09,'{"size": 20, "etag": "\"2\"", "last_modified": "Wed, 25 Nov 2026 00:00:00 GMT", "id": "v1"}',1,2,3,11);
CREATE TABLE watches (
	migration_id VARCHAR(36) NOT NULL, 
	until FLOAT NOT NULL, 
	PRIMARY KEY (migration_id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
CREATE INDEX transfers_by_state ON transfers (migration_id, state, id);
CREATE INDEX transfers_running ON transfers (owner) WHERE state = 'running';
CREATE INDEX parts_taken ON parts (transfer_id, number) WHERE etag = '';
CREATE INDEX transfers_large ON transfers (migration_id, size) WHERE state = 'queued' AND size >= 67108864;
CREATE INDEX transfers_lapsed ON transfers (id) WHERE lapses > 0;
CREATE INDEX transfers_folded ON transfers (migration_id, folded) WHERE folded IS NOT NULL;
CREATE INDEX migrations_by_destination ON migrations (destination);
CREATE INDEX migrations_by_places ON migrations (places);
CREATE INDEX migrations_by_token ON migrations (token);
CREATE INDEX tokens_by_name ON tokens (name);
CREATE INDEX events_in_order ON events (migration_id, tx, id);
CREATE INDEX migrations_by_place ON migrations (place);
CREATE INDEX migrations_without_place ON migrations (id) WHERE place IS NULL;
CREATE UNIQUE INDEX migrations_numbered ON migrations (tenant, ordinal);
CREATE INDEX migrations_by_state ON migrations (tenant, state, ordinal);
CREATE INDEX migrations_of_all_by_state ON migrations (state, number);
CREATE INDEX migrations_needy ON migrations (tenant, ordinal) WHERE needs_attention;
CREATE INDEX transfers_failed ON transfers (migration_id, reason, id) WHERE state = 'failed';
CREATE INDEX plans_of_tenant ON plans (tenant, number);
CREATE INDEX plans_by_state ON plans (state, number);
CREATE INDEX deletions_by_name ON deletions (migration_id, side, hash);
CREATE INDEX deletions_by_state ON deletions (migration_id, state, id);
COMMIT;
