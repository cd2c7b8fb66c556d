import { cookies } from "next/headers";

export default async function Account() {
  const session = (await cookies()).get("session");
  return <main>{session ? `Signed in as ${session.value}` : "Nobody is signed in"}</main>;
}
