import { cookies } from "next/headers";

export default async function Account() {
  const session = (await cookies()).get("session");
  return <main><h1>Account</h1>{session ? `Signed in as ${session.value}` : "Nobody is signed in"}</main>;
}
