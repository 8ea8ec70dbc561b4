PRAGMA application_id = 1380273241;
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE events (
	id INTEGER NOT NULL, 
	migration_id VARCHAR(36) NOT NULL, 
	at FLOAT NOT NULL, 
	kind VARCHAR(24) NOT NULL, 
	members TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "events" VALUES(1,'522648f0-086e-4e85-b9dc-4c62e59238ba',1.79556394772800564764e+09,'accepted','{}');
INSERT INTO "events" VALUES(2,'522648f0-086e-4e85-b9dc-4c62e59238ba',1.79556394773368239404e+09,'listing_done','{}');
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
INSERT INTO "migrations" VALUES('522648f0-086e-4e85-b9dc-4c62e59238ba',1,'running','a:photos','b:photos','{"recursive": true, "verify": "auto", "if_exists": "changed"}','99d0d45893668ed29e991da8c467efe42d9ae88d3ff16cebddb8b32023a89b6a',NULL,3,'done',NULL,1,'three.bin',0,NULL,1.79556394772749638557e+09,NULL);
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
INSERT INTO "parts" VALUES(2,1,11,'"p1"','0123456789abcdef',1);
CREATE TABLE receipts (
	transfer_id INTEGER NOT NULL, 
	receipt TEXT NOT NULL, 
	PRIMARY KEY (transfer_id), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
);
INSERT INTO "receipts" VALUES(1,'{"level":"whole_digest"}');
CREATE TABLE runners (
	id VARCHAR(36) NOT NULL, 
	host TEXT NOT NULL, 
	boot VARCHAR(64) NOT NULL, 
	process VARCHAR(64) NOT NULL, 
	until FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "runners" VALUES('6f1de1f1-6a4c-4b3d-9d0b-0b6d9b8f2a11','somewhere','another-boot','1.1',1627.901398653);
CREATE TABLE secrets (
	migration_id VARCHAR(36) NOT NULL, 
	locations TEXT NOT NULL, 
	PRIMARY KEY (migration_id), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "secrets" VALUES('522648f0-086e-4e85-b9dc-4c62e59238ba','{"source": {"text": "a:photos", "headers": [], "method": null}, "destination": {"text": "b:photos", "headers": [], "method": null}}');
CREATE TABLE tallies (
	migration_id VARCHAR(36) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	objects BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	PRIMARY KEY (migration_id, state), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "tallies" VALUES('522648f0-086e-4e85-b9dc-4c62e59238ba','queued',1,33);
INSERT INTO "tallies" VALUES('522648f0-086e-4e85-b9dc-4c62e59238ba','running',1,22);
INSERT INTO "tallies" VALUES('522648f0-086e-4e85-b9dc-4c62e59238ba','verified',1,11);
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
	ended FLOAT, digests TEXT, 
	PRIMARY KEY (id), 
	UNIQUE (migration_id, name), 
	FOREIGN KEY(migration_id) REFERENCES migrations (id) ON DELETE CASCADE
);
INSERT INTO "transfers" VALUES(1,'522648f0-086e-4e85-b9dc-4c62e59238ba','one.bin',NULL,11,'"e1"',1600000000.0,'verified',NULL,1,1,0,0.0,11,0,0.5,'whole_digest',NULL,1.79556394773690319063e+09,NULL);
INSERT INTO "transfers" VALUES(2,'522648f0-086e-4e85-b9dc-4c62e59238ba','two.bin',NULL,22,'"e2"',1600000000.0,'running','6f1de1f1-6a4c-4b3d-9d0b-0b6d9b8f2a11',1,1,0,0.0,NULL,0,NULL,NULL,NULL,NULL,'{"md5": "00000000000000000000000000000000"}');
INSERT INTO "transfers" VALUES(3,'522648f0-086e-4e85-b9dc-4c62e59238ba','three.bin',NULL,33,'"e3"',1600000000.0,'queued',NULL,0,0,0,0.0,NULL,0,NULL,NULL,NULL,NULL,NULL);
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
INSERT INTO "uploads" VALUES(2,'up-2',1,'s3://b/two.bin','"e2"',22,11,NULL,1.79556394773910093305e+09);
CREATE INDEX transfers_by_state ON transfers (migration_id, state, id);
CREATE INDEX transfers_running ON transfers (owner) WHERE state = 'running';
CREATE INDEX events_of ON events (migration_id, id);
COMMIT;
