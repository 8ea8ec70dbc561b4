PRAGMA application_id = 1380273241;
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE events (
	id INTEGER NOT NULL, 
	migration_id VARCHAR(36) NOT NULL, 
	at FLOAT NOT NULL, 
	kind VARCHAR(24) NOT NULL, 
	members TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "events" VALUES(1,'5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3',1.79548824723738193517e+09,'accepted','{}');
INSERT INTO "events" VALUES(2,'5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3',1.79548824725250601771e+09,'listing_done','{}');
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
	ended FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (number), 
	UNIQUE ("key")
);
INSERT INTO "migrations" VALUES('5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3',1,'running','/from/','/to/','{"recursive": true, "verify": "auto", "if_exists": "changed"}','54e5d9b5d646a69de7e8b1d8d5416a91635dc15fc23b958c9c3a9222b3d7344d','a key',0,'done',NULL,1,'three.bin',0,NULL,1.79548824723633575432e+09,NULL);
CREATE TABLE parts (
	transfer_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	size BIGINT NOT NULL, 
	etag TEXT NOT NULL, 
	digest VARCHAR(16) NOT NULL, 
	checked BOOLEAN NOT NULL, 
	PRIMARY KEY (transfer_id, number), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
);
INSERT INTO "parts" VALUES(2,1,11,'"p1"','0011223344556677',1);
CREATE TABLE receipts (
	transfer_id INTEGER NOT NULL, 
	receipt TEXT NOT NULL, 
	PRIMARY KEY (transfer_id), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
);
INSERT INTO "receipts" VALUES(1,'{"level":"read_back","bytes":11,"digests":{"crc64nold-hoste":"00"},"notes":[]}');
CREATE TABLE runners (
	id VARCHAR(36) NOT NULL, 
	host TEXT NOT NULL, 
	boot VARCHAR(64) NOT NULL, 
	process VARCHAR(64) NOT NULL, 
	until FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "runners" VALUES('e3fa64ed-6a27-4f43-a6c7-6488ebd6e44e','old-host','1fa6f515-fbd3-4c90-b6c0-ddca828c0fe6','29325.4792976',47960.637572481);
CREATE TABLE secrets (
	migration_id VARCHAR(36) NOT NULL, 
	locations TEXT NOT NULL, 
	PRIMARY KEY (migration_id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "secrets" VALUES('5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3','{"source": {"text": "/from/", "headers": [], "method": null}, "destination": {"text": "/to/", "headers": [], "method": null}}');
CREATE TABLE tallies (
	migration_id VARCHAR(36) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	objects BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	PRIMARY KEY (migration_id, state), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "tallies" VALUES('5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3','queued',1,33);
INSERT INTO "tallies" VALUES('5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3','running',1,22);
INSERT INTO "tallies" VALUES('5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3','verified',1,11);
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
	ended FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (migration_id, name), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "transfers" VALUES(1,'5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3','one.bin',NULL,11,'"e1"',1600000000.0,'verified',NULL,1,1,0,0.0,11,0,0.5,'read_back',NULL,1.79548824725974798203e+09);
INSERT INTO "transfers" VALUES(2,'5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3','two.bin',NULL,22,'"e2"',1600000000.0,'running','e3fa64ed-6a27-4f43-a6c7-6488ebd6e44e',1,1,0,0.0,NULL,0,NULL,NULL,NULL,NULL);
INSERT INTO "transfers" VALUES(3,'5f8e130f-d1c4-4a7e-ab8a-36a089dec0d3','three.bin',NULL,33,'"e3"',1600000000.0,'queued',NULL,0,0,0,0.0,NULL,0,NULL,NULL,NULL,NULL);
CREATE TABLE uploads (
	transfer_id INTEGER NOT NULL, 
	upload_id TEXT NOT NULL, 
	checked BOOLEAN NOT NULL, 
	place TEXT NOT NULL, 
	etag TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	part_bytes BIGINT NOT NULL, 
	digest TEXT, 
	begun FLOAT NOT NULL, 
	PRIMARY KEY (transfer_id), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
);
INSERT INTO "uploads" VALUES(2,'up-2',1,'s3://b/two.bin','"e2"',22,11,NULL,1.79548824726533508299e+09);
CREATE INDEX transfers_by_state ON transfers (migration_id, state, id);
CREATE INDEX transfers_running ON transfers (owner) WHERE state = 'running';
CREATE INDEX events_of ON events (migration_id, id);
COMMIT;
